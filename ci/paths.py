"""Where things are in this repository, where builds go, and who may write there."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
BENTOS: Final = ROOT / "bentos"
BUILT: Final = ROOT / ".nox" / "bentos"
"""Bentos and build contexts, a folder for each bento and platform."""


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a folder to one process; another one waits until it is done."""
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)
