from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from services.transcription.live.session import Session
from services.transcription.live.transcriber import Transcriber
from services.transcription.realtime import InputBuffer
from tests.fakes.transcription_engine import FakeEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BYTES_A_SECOND = 48_000


@asynccontextmanager
async def _slot() -> AsyncIterator[None]:
    yield


async def _send(_text: str) -> None:
    pass


async def test_others_talk_while_a_minute_that_came_at_once_is_taken_in() -> None:
    engine = FakeEngine()
    transcriber = Transcriber(engine, _send, _slot, lambda _: None)
    buffer = InputBuffer(engine, Session("sess_1", "fake"), transcriber, _send)
    turns = 0
    async with transcriber.working():
        taking = asyncio.create_task(buffer.append(bytes(60 * BYTES_A_SECOND)))
        while not taking.done():
            turns += 1
            await asyncio.sleep(0)
    assert turns > 60 * 4
