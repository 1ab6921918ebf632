"""A process that compiles what is to bind an answer, and can be killed: xgrammar cannot be stopped.

A script, run by its path, so that it loads nothing of ours and nothing of vLLM's. Its first line is
the tokenizer as xgrammar writes it; each further line asks, and is answered by a line.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import xgrammar

if TYPE_CHECKING:
    from collections.abc import Callable

_PARSE_S = 0.5
_STEPS = 256
_STEPS_S = 1.0
_SLOW = "takes too long to convert, which vLLM does on its event loop"


def main() -> None:
    """Answer until the other side hangs up."""
    os.nice(10)  # those who are being answered come first
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
    """Return "" if an answer can begin, and be followed quickly, else what is wrong.

    The engine does for each token of everybody's what is timed here. Two answers are made up: one
    of the first token that is allowed, mostly a byte, of which loops are longest; one by chance.
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
