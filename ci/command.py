"""The frame of every verb: `--help` that teaches, and an error in one line."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ci.errors import CiError
from ci.progress import say

if TYPE_CHECKING:
    from collections.abc import Callable


def parser(verb: str, doc: str | None) -> argparse.ArgumentParser:
    """Return a parser for a verb; `doc` is its module's docstring and becomes its help."""
    return argparse.ArgumentParser(
        prog=f"python -m ci {verb}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run(verb: str, work: Callable[[], int | None]) -> int:
    """Do a verb's work; 0 (or what it returns), 1 with one line if it cannot, 130 if stopped."""
    try:
        return work() or 0
    except (CiError, OSError) as error:
        say(f"python -m ci {verb}: {error}")
        return 1
    except KeyboardInterrupt:
        say(f"python -m ci {verb}: stopped")
        return 130


def result(text: str) -> None:
    """Print a result on standard output; progress and errors go to standard error."""
    sys.stdout.write(f"{text}\n")
