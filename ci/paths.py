"""Where things are in this repository, and where what is built goes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
BENTOS: Final = ROOT / "bentos"
BUILT: Final = ROOT / ".nox" / "bentos"
"""Bentos, build contexts and build reports: one folder for each bento and platform."""
