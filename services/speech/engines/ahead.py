"""A text said segment by segment, one ahead of the segment that is taken."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from services.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from services.audio.pcm import Samples

    Work = set[asyncio.Task[None]]


async def one_ahead(
    segments: AsyncGenerator[str, None],
    say: Callable[[str], AsyncGenerator[Samples, None]],
    work: Work,
) -> AsyncGenerator[Samples, None]:
    """Yield what `say` makes of each segment, while the next one is made already.

    So no gap is heard between two segments, and no more than two wait for a slow listener. Closing
    it stops the work at once.

    Args:
        segments: the text; it is closed at the end.
        say: yields the frames of one segment.
        work: has the task that makes them, as long as it runs; cancelling the task ends the speech.

    Raises:
        UnavailableError: the task was cancelled: half a text must not pass for a whole one.
        Exception: whatever `segments` or `say` raises, after the frames before it.
    """
    made: asyncio.Queue[Samples | None] = asyncio.Queue()  # None: the end of a segment, or of all
    room = asyncio.Semaphore(1)

    async def make() -> None:
        async with aclosing(segments):
            async for segment in segments:
                async with aclosing(say(segment)) as frames:
                    async for frame in frames:
                        made.put_nowait(frame)
                made.put_nowait(None)
                await room.acquire()

    task = asyncio.create_task(make())
    work.add(task)
    task.add_done_callback(work.discard)
    task.add_done_callback(lambda _: made.put_nowait(None))
    try:
        while not (task.done() and made.empty()):
            frame = await made.get()
            if frame is None:
                room.release()
            else:
                yield frame
        if task.cancelled():
            raise UnavailableError("the engine was closed", retry_after_s=1.0)
        task.result()
    finally:
        task.cancel()
        await asyncio.wait([task])
