"""A process that compiles what is to bind an answer, and can be killed: xgrammar cannot be stopped.

A script, run by its path, so that it loads nothing of ours and nothing of vLLM's. Its first line is
the tokenizer as xgrammar writes it; each further line asks, and is answered by a line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import xgrammar

_PARSE_S = 0.5
_SLOW = "takes too long to convert, which vLLM does on its event loop"


def main() -> None:
    """Answer until the other side hangs up."""
    os.nice(10)  # those who are being answered come first
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    tokenizer = xgrammar.TokenizerInfo.deserialize_json(json.loads(sys.stdin.readline()))
    compiler = xgrammar.GrammarCompiler(tokenizer, max_threads=threads, cache_enabled=False)
    parses = {
        "json": xgrammar.Grammar.from_json_schema,
        "regex": xgrammar.Grammar.from_regex,
        "grammar": xgrammar.Grammar.from_ebnf,
        "lark": xgrammar.Grammar.from_lark,
        "structural_tag": xgrammar.Grammar.from_structural_tag,
    }
    compiles = {
        "json": compiler.compile_json_schema,
        "regex": compiler.compile_regex,
        "grammar": compiler.compile_grammar,
        "lark": compiler.compile_lark,
        "structural_tag": compiler.compile_structural_tag,
    }
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            began = time.thread_time()
            parses[asked["kind"]](asked["text"])
            if time.thread_time() - began > _PARSE_S:
                fault = _SLOW
            else:
                fault = _begins(compiles[asked["kind"]](asked["text"]), tokenizer.vocab_size)
        except Exception as error:  # noqa: BLE001  xgrammar raises what it likes
            fault = str(error) or type(error).__name__
        sys.stdout.write(json.dumps(fault) + "\n")
        sys.stdout.flush()


def _begins(compiled: Any, vocab_size: int) -> str:
    """Return "" if there is a token that an answer may begin with, else what is wrong."""
    allowed = xgrammar.allocate_token_bitmask(1, vocab_size)
    xgrammar.GrammarMatcher(compiled).fill_next_token_bitmask(allowed)
    return "" if allowed.any() else "nothing can begin an answer"


if __name__ == "__main__":
    main()
