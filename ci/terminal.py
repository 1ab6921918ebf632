"""What a verb prints: results on standard output, all else on standard error."""

from __future__ import annotations

import sys


def result(text: str) -> None:
    """Print a result."""
    sys.stdout.write(f"{text}\n")


def say(line: str) -> None:
    """Tell the person at the terminal, at once."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
