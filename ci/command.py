"""The frame of every verb: `--help` that teaches, `--json`, an error in one line."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from ci.errors import CiError
from ci.progress import say

if TYPE_CHECKING:
    from collections.abc import Callable


def parser(verb: str, doc: str | None, *, json_result: bool = True) -> argparse.ArgumentParser:
    """Return a verb's options; `doc` is its module's docstring and becomes its help."""
    options = argparse.ArgumentParser(
        prog=f"python -m ci {verb}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if json_result:
        options.add_argument("--json", action="store_true", help="print the result as JSON")
    return options


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
    """Print a result for a person on standard output; progress and errors go to standard error."""
    sys.stdout.write(f"{text}\n")


def result_json(value: Any) -> None:
    """Print a result as JSON on standard output."""
    result(json.dumps(value, indent=2))
