"""Where things are in this repository, and where builds go."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
BENTOS: Final = ROOT / "bentos"
BUILT: Final = ROOT / ".nox" / "bentos"
"""Bentos and build contexts, a folder for each bento and platform."""
