"""The process that compiles constraints and can be killed, since xgrammar cannot be interrupted.

It is a script that is run by its path, so that it imports neither our modules nor vLLM. The first
line of its input is the tokenizer, serialised by xgrammar; each further line is a constraint, and
is answered by a line.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import xgrammar

_PARSE_S = 0.5
_STEPS = 256
_STEPS_S = 1.0
_SLOW = "takes too long to convert, which vLLM does on its event loop"


def main() -> None:
    """Answer until the input ends."""
    os.nice(10)  # requests that are being answered come first
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    tokenizer = xgrammar.TokenizerInfo.deserialize_json(json.loads(sys.stdin.readline()))
    compiler = xgrammar.GrammarCompiler(tokenizer, max_threads=threads, cache_enabled=False)
    grammar = xgrammar.Grammar
    ways = {
        "json": (grammar.from_json_schema, compiler.compile_json_schema),
        "regex": (grammar.from_regex, compiler.compile_regex),
        "grammar": (grammar.from_ebnf, compiler.compile_grammar),
        "lark": (grammar.from_lark, compiler.compile_lark),
        "structural_tag": (grammar.from_structural_tag, compiler.compile_structural_tag),
    }
    print("ready", flush=True)  # noqa: T201  it is how we answer
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            convert, compile_ = ways[asked["kind"]]
            began = time.thread_time()
            convert(asked["text"])
            if time.thread_time() - began > _PARSE_S:
                fault = _SLOW
            else:
                fault = _follow(compile_(asked["text"]), tokenizer)
        except Exception as error:  # noqa: BLE001  xgrammar raises what it likes
            fault = str(error) or type(error).__name__
        print(json.dumps(fault), flush=True)  # noqa: T201


def _follow(compiled: Any, tokenizer: Any) -> str:
    """Return "" if an answer can begin and its tokens are checked quickly, else what is wrong.

    The engine does what is timed here between the tokens of all requests. Two answers are made up:
    one always takes the first token that is allowed, mostly a single byte, which makes the longest
    loops; the other takes tokens at random.
    """
    allowed = xgrammar.allocate_token_bitmask(1, tokenizer.vocab_size)
    stops = list(tokenizer.stop_token_ids)
    chance = random.Random(1)  # noqa: S311  the same for everybody
    shares: list[Callable[[], float]] = [lambda: 0.0, chance.random]
    for share in shares:
        matcher = xgrammar.GrammarMatcher(compiled)
        spent, token = 0.0, None
        for step in range(_STEPS):
            began = time.thread_time()
            if token is not None and not matcher.accept_token(token):
                break
            matcher.fill_next_token_bitmask(allowed)
            spent += time.thread_time() - began
            if spent > _STEPS_S:
                return "takes too long to follow, token by token; nest no repetitions"
            if step == 0 and not allowed.any():
                return "nothing can begin an answer"
            bits = np.unpackbits(allowed[0].numpy().view(np.uint8), bitorder="little")
            bits[stops] = 0
            tokens = bits.nonzero()[0]
            if not len(tokens):
                break
            token = int(tokens[int(share() * len(tokens))])
    return ""


if __name__ == "__main__":
    main()
