"""A real Kokoro, from PyPI packages (Apache-2.0), where a package index has them."""

from __future__ import annotations

import asyncio
import fcntl
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from services.packages import PackageError
from services.speech.engines.kokoro.source import PACKAGED
from services.speech.engines.registry import create_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@contextmanager
def kokoro_engine(folder: Path) -> Iterator[KokoroEngine]:
    """Yield an engine whose model is loaded; it is closed afterwards."""
    engine: Any = create_engine("kokoro", model=str(folder))
    asyncio.run(_loaded(engine))
    try:
        yield engine
    finally:
        asyncio.run(engine.close())


async def _loaded(engine: KokoroEngine) -> None:
    await engine.start()
    async with asyncio.timeout(_START_S):
        while engine.loading:  # noqa: ASYNC110  a property has no event
            await asyncio.sleep(0.02)
    assert not engine.lack
