"""One request on its way: segments are requested in turn, and frames wait for the listener."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from services.errors import EngineError
from services.speech.engines.segments import segments_as_written
from services.speech.engines.vllm_omni.client import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from services.audio.pcm import Samples

_HELD: Final = 20 * SAMPLE_RATE_HZ  # samples that wait for a listener, give or take one frame


class Synthesis:
    """Speaks a text in a task of its own, at most one segment ahead of the one being taken.

    So the next segment is requested while the last one is still played, and no gap is heard.
    """

    def __init__(
        self,
        text: str | AsyncIterator[str],
        speak: Callable[[str], AsyncGenerator[Samples, None]],
    ) -> None:
        """Begin at once; `speak` yields the frames of one segment."""
        self._speak = speak
        self._frames: deque[tuple[int, Samples]] = deque()
        self._held = 0
        self._taken_from = 0
        self._made = asyncio.Event()
        self._taken = asyncio.Event()
        self._error: BaseException | None = None
        self.task = asyncio.create_task(self._make(text))
        self.task.add_done_callback(lambda _: self._made.set())

    async def frames(self) -> AsyncGenerator[Samples, None]:
        """Yield the frames of all segments; an error comes at once, before frames that wait."""
        while True:
            await self._made.wait()
            if self._error is not None:
                raise self._error
            if not self._frames:
                if self.task.cancelled():  # half a text must not pass for a whole one
                    raise EngineError("the work was stopped", code="engine_failed")
                if self.task.done():
                    return
                self._made.clear()
                continue
            self._taken_from, frame = self._frames.popleft()
            self._held -= frame.size
            self._taken.set()
            yield frame

    async def stop(self, error: BaseException | None = None) -> None:
        """End the work at once; whoever still listens gets `error`."""
        if not self.task.done():
            self._error = error
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def _make(self, text: str | AsyncIterator[str]) -> None:
        try:
            async with aclosing(segments_as_written(text)) as segments:
                number = 0
                async for segment in segments:
                    await self._until(lambda: self._taken_from >= number - 1)  # noqa: B023  awaited here
                    async with aclosing(self._speak(segment)) as frames:
                        async for frame in frames:
                            self._frames.append((number, frame))
                            self._held += frame.size
                            self._made.set()
                            await self._until(lambda: self._held < _HELD)
                    number += 1
        except Exception as error:  # noqa: BLE001  raised for the listener
            self._error = error

    async def _until(self, has_room: Callable[[], bool]) -> None:
        while not has_room():
            self._taken.clear()
            await self._taken.wait()
