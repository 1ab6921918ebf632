"""The base of live sessions: no message is lost, whatever happens at the same time."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from services.errors import DeadlineError
from services.server.live import LiveSession
from services.speech.socket import SpeechSocket
from tests.fakes.speech_engine import FakeEngine as SpeechFake
from tests.fakes.transcription_engine import FakeEngine as TranscriptionFake
from tests.hearing_app import live_socket
from tests.live_app import MANUAL, TEXT, session_of, spoken
from tests.speech_app import models_of, speakers_of, untold

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def slot() -> AsyncIterator[None]:
    yield


class Connection:
    """A WebSocket without a network, after the shell's handshake."""

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        self.scope: Any = {"bentovox.slot": slot, "bentovox.draining": self.draining}
        self.sent: list[Any] = []
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.receive = self._messages.get

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def say(self, *messages: str) -> None:
        for message in messages:
            self._messages.put_nowait({"type": "websocket.receive", "text": message})

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(one["text"]) for one in self.sent if "text" in one]


class Session(LiveSession):
    """Records its messages until the server ends."""

    def __init__(self, connection: Connection, within_s: float = 30.0) -> None:
        super().__init__(connection.scope, connection.send)
        self.said: list[str | bytes] = []
        self.waiting = asyncio.Event()
        self._within_s = within_s

    async def run(self) -> None:
        self.waiting.set()
        while (message := await self.next_message(self._within_s)) is not None:
            self.said.append(message)


async def test_what_comes_in_the_moment_of_a_drain_is_taken_and_then_it_ends() -> None:
    connection = Connection()
    session = Session(connection)
    serving = asyncio.create_task(session.serve(connection.receive))
    await session.waiting.wait()
    connection.say("the", "last", "words")
    connection.draining.set()
    await serving
    assert session.said == ["the", "last", "words"]


async def test_a_client_that_never_stops_does_not_hold_up_a_drain() -> None:
    connection = Connection()

    class Echo(Session):
        async def next_message(self, within_s: float) -> str | bytes | None:
            connection.say("more")
            await asyncio.sleep(0)
            return await super().next_message(within_s)

    session = Echo(connection)
    connection.draining.set()
    async with asyncio.timeout(5):
        await session.serve(connection.receive)
    assert len(session.said) <= 2


async def test_a_deadline_says_what_did_not_come() -> None:
    connection = Connection()
    with pytest.raises(DeadlineError, match=r"no message came within 0\.01 s"):
        await Session(connection, 0.01).serve(connection.receive)


async def test_what_was_said_to_a_speech_session_before_a_drain_is_spoken() -> None:
    engine, connection = SpeechFake(), Connection()
    await engine.start()
    connection.say(
        json.dumps({"type": "session.config", "voice": "alloy", "response_format": "pcm"}),
        json.dumps({"type": "input.text", "text": "hello"}),
        json.dumps({"type": "input.done"}),
    )
    connection.draining.set()
    socket = SpeechSocket(speakers_of(engine), models_of(engine), untold)
    await socket(connection.scope, connection.receive, connection.send)
    kinds = [event["type"] for event in connection.events()]
    assert kinds == ["audio.start", "audio.done", "session.done"]


async def test_what_was_said_to_a_transcription_session_before_a_drain_is_heard() -> None:
    engine, connection = TranscriptionFake(), Connection()
    await engine.start()
    audio = base64.b64encode(spoken(TEXT)).decode()
    connection.say(
        json.dumps({"type": "session.update", "session": session_of(**MANUAL)}),
        json.dumps({"type": "input_audio_buffer.append", "audio": audio}),
        json.dumps({"type": "input_audio_buffer.commit"}),
    )
    connection.draining.set()
    socket = live_socket(engine)
    await socket(connection.scope, connection.receive, connection.send)
    last = connection.events()[-1]
    assert last["type"] == "conversation.item.input_audio_transcription.completed"
    assert last["transcript"] == TEXT
