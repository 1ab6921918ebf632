"""A worker's side of `benchmarks.contestants.Worker`: lines of JSON come in, lines go out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def replies() -> Any:
    """Return what standard output was; from now on, what libraries print goes to standard error."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept


def take(turn: Callable[[Any], Any], into: Any) -> None:
    """Say that we can begin, and answer `into` what `turn` returns, until nobody asks for more."""
    print(json.dumps({"ready": True}), file=into, flush=True)
    for line in sys.stdin:
        print(json.dumps(turn(json.loads(line))), file=into, flush=True)
