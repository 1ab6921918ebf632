"""What the person at the terminal is told while a verb is at work."""

from __future__ import annotations

import sys


def say(line: str) -> None:
    """Print a line on standard error, at once; standard output is for results."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
