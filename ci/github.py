"""The files in which GitHub Actions describes a job's event and takes a step's outputs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.errors import CiError

if TYPE_CHECKING:
    from collections.abc import Mapping


def event() -> tuple[str, dict[str, Any]]:
    """Return the name of the event that started the workflow, and its data.

    Raises:
        CiError: this is no job of GitHub Actions.
    """
    return _variable("GITHUB_EVENT_NAME"), json.loads(
        Path(_variable("GITHUB_EVENT_PATH")).read_text(encoding="utf-8")
    )


def outputs(values: Mapping[str, object]) -> None:
    """Write a step's outputs, a line each; anything but text is written as JSON.

    Raises:
        CiError: this is no job of GitHub Actions, or a value has more than one line.
    """
    path = Path(_variable("GITHUB_OUTPUT"))
    with path.open("a", encoding="utf-8") as file:
        for name, value in values.items():
            text = value if isinstance(value, str) else json.dumps(value)
            if "\n" in text:
                raise CiError(f"{name} has more than one line and cannot be an output")
            file.write(f"{name}={text}\n")


def _variable(name: str) -> str:
    found = os.environ.get(name)
    if not found:
        raise CiError(f"--github works in a job of GitHub Actions only: {name} is not set")
    return found
