"""The faster-whisper engine with a model made by tests, started and ready."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from services.engines import create

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from services.transcription.engines.faster_whisper.engine import FasterWhisperEngine


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds that nobody tells."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  a property has no event
            await asyncio.sleep(0.01)


def at_work(engine: Any) -> int:
    """Return for how many windows somebody waits."""
    return len(engine._batches._answers)


@asynccontextmanager
async def whisper_engine(folder: Path, **options: Any) -> AsyncIterator[FasterWhisperEngine]:
    """Yield an engine that is ready, on the CPU; it is closed afterwards."""
    engine: Any = create(
        "transcription", "faster_whisper", model=str(folder), device="cpu", threads=1, **options
    )
    await engine.start()
    try:
        await until(lambda: engine.ready or engine.settled)
        assert engine.ready, engine.status
        yield engine
    finally:
        await engine.close()
