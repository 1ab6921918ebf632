"""The kokoro engine with a real model."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from services.engines import create

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from services.speech.engines.kokoro.engine import KokoroEngine

_START_S = 120


@contextmanager
def kokoro_engine(folder: Path) -> Iterator[KokoroEngine]:
    """Yield an engine whose model is loaded; it is closed afterwards."""
    engine: Any = create("speech", "kokoro", model=str(folder))
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
