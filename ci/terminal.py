"""What a verb tells (results on stdout, a job's outputs to GitHub, all else on stderr) and runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ci.errors import CiError


def result(text: str) -> None:
    """Print a result."""
    sys.stdout.write(f"{text}\n")


def say(line: str) -> None:
    """Tell the person at the terminal, at once."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def ran(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program that reads `input`, or nothing; return how it ended and what it printed."""
    options = {"input": "", **options}
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def last_line(said: str) -> str:
    """Return the last line that says something."""
    return ([line.strip() for line in said.splitlines() if line.strip()] or ["it said nothing"])[-1]


def github(variable: str) -> str:
    """Return a variable of a job of GitHub Actions."""
    if found := os.environ.get(f"GITHUB_{variable}"):
        return found
    raise CiError(f"--github works in a job of GitHub Actions only: GITHUB_{variable} is not set")


def outputs(values: Mapping[str, object]) -> None:
    """Write a step's outputs to GitHub, a line each; anything but text as JSON."""
    lines = (
        f"{name}={value if isinstance(value, str) else json.dumps(value)}\n"
        for name, value in values.items()
    )
    with Path(github("OUTPUT")).open("a", encoding="utf-8") as file:
        file.writelines(lines)
