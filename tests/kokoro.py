"""A real Kokoro, from PyPI packages (Apache-2.0), where a package index has them."""

from __future__ import annotations

import asyncio
import fcntl
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from services.packages import PackageError
from services.speech.engines.kokoro.source import PACKAGED
from services.speech.engines.registry import create_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.speech.engines.kokoro.engine import KokoroEngine

_START_S = 120


def kokoro() -> Path:
    """Return the model's folder, fetched by the first test that asks; skips if it cannot be had."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bentovox" / "tests"
    home.mkdir(parents=True, exist_ok=True)
    with (home / "kokoro.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return PACKAGED.cached(home) or PACKAGED.download(home, lambda _: None)
        except PackageError as error:
            pytest.skip(f"a real Kokoro cannot be had here: {error}")


@asynccontextmanager
async def kokoro_engine(folder: Path, **options: Any) -> AsyncIterator[KokoroEngine]:
    """Yield an engine whose model is loaded; it is closed afterwards."""
    engine: Any = create_engine("kokoro", model=str(folder), **options)
    await engine.start()
    try:
        async with asyncio.timeout(_START_S):
            while engine.loading:  # noqa: ASYNC110  a property has no event
                await asyncio.sleep(0.02)
        assert not engine.lack
        yield engine
    finally:
        await engine.close()
