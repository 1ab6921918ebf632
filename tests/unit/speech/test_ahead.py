"""A text said segment by segment: one ahead, and no more."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import numpy as np
import pytest

from services.errors import UnavailableError
from services.speech.engines.segments import one_ahead, segments_as_written
from tests.whisper_engine import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from services.audio.pcm import Samples

TEXT = "This is one sentence. This is another one. The third comes here. And a last one."


class Speaker:
    """Says each segment as three frames, whose samples are its number; one may fail."""

    def __init__(self, fails: int = -1) -> None:
        self.said: list[str] = []
        self.frames = 0
        self.open = 0
        self._fails = fails

    async def say(self, text: str) -> AsyncGenerator[Samples, None]:
        number = len(self.said)
        self.said.append(text)
        self.open += 1
        try:
            for _ in range(3):
                await asyncio.sleep(0)
                if number == self._fails:
                    raise LookupError(text)
                self.frames += 1
                yield np.full(10, number, dtype=np.float32)
        finally:
            self.open -= 1


async def test_all_segments_are_said_in_turn() -> None:
    speaker = Speaker()
    frames = one_ahead(segments_as_written(TEXT), speaker.say, set())
    assert [int(frame[0]) async for frame in frames] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert " ".join(speaker.said) == TEXT


async def test_no_more_than_the_next_segment_is_made_while_one_is_taken() -> None:
    speaker = Speaker()
    async with aclosing(one_ahead(segments_as_written(TEXT), speaker.say, set())) as frames:
        await anext(frames)
        await until(lambda: speaker.frames == 6)
        for _ in range(100):
            await asyncio.sleep(0)  # another one would begin now
        assert len(speaker.said) == 2


async def test_an_error_comes_after_what_was_made_before_it() -> None:
    frames = one_ahead(segments_as_written(TEXT), Speaker(fails=1).say, set())
    assert [int((await anext(frames))[0]) for _ in range(3)] == [0, 0, 0]
    with pytest.raises(LookupError):
        await anext(frames)


async def test_closing_it_stops_the_work_at_once() -> None:
    work: set[asyncio.Task[None]] = set()
    speaker = Speaker()
    frames = one_ahead(segments_as_written(TEXT), speaker.say, work)
    await anext(frames)
    assert len(work) == 1
    await frames.aclose()
    assert not work
    assert not speaker.open


async def test_speech_whose_work_is_cancelled_does_not_pass_for_whole() -> None:
    work: set[asyncio.Task[None]] = set()
    frames = one_ahead(segments_as_written(TEXT), Speaker().say, work)
    await anext(frames)
    for task in work:
        task.cancel()
    with pytest.raises(UnavailableError):
        async for _ in frames:
            pass
