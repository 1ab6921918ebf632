"""CUDA's libraries for CTranslate2, which looks for them by name when it first computes.

Where pip brought them (the extra `faster-whisper-cuda`) no linker finds them; once they are loaded
by their path, it does: https://github.com/SYSTRAN/faster-whisper#gpu. CTranslate2 4.8's wheel asks
for cuBLAS alone: `strings` finds no cuDNN in it, which earlier ones wanted (docs/decisions/0025).
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Final

_LIBRARIES: Final = {
    "libcublasLt.so.12": ("nvidia.cublas", "nvidia-cublas-cu12"),
    "libcublas.so.12": ("nvidia.cublas", "nvidia-cublas-cu12"),
}


def missing() -> list[str]:
    """Load what is there; return what is not, as what pip would have to install."""
    lacking = []
    for name, (package, distribution) in _LIBRARIES.items():
        if not (_load(name) or _load(str(_folder(package) / name))):
            lacking.append(f"{name} ({distribution})")
    return lacking


def _folder(package: str) -> Path:
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        return Path("/nonexistent")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0], "lib") if places else Path("/nonexistent")


def _load(name: str) -> bool:
    try:
        ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True
