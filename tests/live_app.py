"""A live transcription session: a role behind a real WebSocket, and a client."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from services.audio.resample import Resampler
from services.engines import create
from services.openai.paths import REALTIME
from services.server.admission import Limits
from services.server.serving import Readiness, RoleApp
from services.server.shell import Shell
from services.speech.engines.protocol import SynthesisRequest
from tests.hearing_app import live_socket, said
from tests.sounds import to_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from services.audio.pcm import Samples

PATH = REALTIME
ROOMY = Limits(slots=4, queue=4, deadline_s=30)
RATE_HZ = 24_000
PIECE = RATE_HZ // 10 * 2
MANUAL = {"turn_detection": None}
TEXT = "what is said goes on and on here"  # 3.2 s, as long as whole tones and whole frames are
PAUSE = "|" * 8
QUIET = bytes(RATE_HZ * 2 * 8 // 10)


def spoken(text: str) -> bytes:
    """Return speech as pcm, between silences; its tones fall on the frames that are judged."""
    quiet = "|" * 8  # 0.8 s is a whole number of tones and of frames
    rest = "|" * (-len(text) % 8)
    return to_bytes(said(quiet + text + rest + quiet, RATE_HZ))


async def by_espeak(text: str, voice: str = "alloy") -> Samples:
    """Return a text as espeak-ng says it, float32 at `RATE_HZ`, without silence around it."""
    pytest.importorskip("espeakng_loader", reason="the espeak extra is not installed")
    engine = create("speech", "espeak")
    await engine.start()
    try:
        request = SynthesisRequest(text=text, voice=voice)
        frames = [frame async for frame in engine.synthesise(request)]
    finally:
        await engine.close()
    resampler = Resampler(engine.sample_rate_hz, RATE_HZ)
    samples = np.concatenate([*(resampler.feed(one) for one in frames), resampler.finish()])
    loud = np.flatnonzero(np.abs(samples) > 0.02)
    return samples[loud[0] : loud[-1]]


class Talk:
    """The client's side of a connection."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def say(self, kind: str, **fields: Any) -> None:
        await self.connection.send(json.dumps({"type": kind, **fields}))

    async def configure(self, include: list[str] | None = None, **fields: Any) -> dict[str, Any]:
        session = session_of(**fields)
        if include is not None:
            session["include"] = include
        await self.say("session.update", session=session)
        return await self.event("session.updated")

    async def append(self, data: bytes) -> None:
        audio = base64.b64encode(data).decode()
        await self.say("input_audio_buffer.append", audio=audio)

    async def speak(self, data: bytes) -> None:
        for begin in range(0, len(data), PIECE):
            await self.append(data[begin : begin + PIECE])

    async def begin(self, guesses: Callable[[], int], text: str = TEXT) -> list[dict[str, Any]]:
        """Begin to speak as live as the engine listens; return the events with the first text.

        After the first there is a guess for each half a second, so that text is stable before all
        is said.
        """
        await self.speak(to_bytes(said(PAUSE + text[:5], RATE_HZ)))
        for begin in range(5, len(text), 5):
            before = guesses()
            await self.speak(to_bytes(said(text[begin : begin + 5], RATE_HZ)))
            if len(text) - begin >= 5:
                await until(lambda: guesses() > before)  # noqa: B023
        return await self.until("delta")

    async def next(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(await self.connection.recv())
        assert event["event_id"].startswith("event_")
        return event

    async def event(self, kind: str) -> dict[str, Any]:
        event = await self.next()
        assert event["type"] == kind, event
        return event

    async def until(self, kind: str) -> list[dict[str, Any]]:
        """Return the events up to the first whose type ends so."""
        events = [await self.next()]
        while not events[-1]["type"].endswith(kind):
            events.append(await self.next())
        return events

    async def fault(self) -> tuple[str | None, str | None]:
        error = (await self.event("error"))["error"]
        return error["param"], error["code"]

    async def close_code(self) -> int | None:
        with suppress(ConnectionClosed):
            while True:
                await self.connection.recv()
        return self.connection.close_code


class Served:
    """An engine behind the WebSocket, in its own shell."""

    def __init__(self, engine: Any, limits: Limits = ROOMY) -> None:
        self.engine = engine
        self.seconds: list[float] = []
        self.protocols: list[Any] = []
        self.url = ""
        app = live_socket(engine, self.seconds.append)

        async def socket(scope: Any, receive: Any, send: Any) -> None:
            await app(scope, receive, send)

        @asynccontextmanager
        async def nothing() -> AsyncIterator[None]:
            yield

        self.shell = Shell(
            RoleApp(
                role="transcription",
                handlers={},
                sockets={PATH: socket},
                limits=limits,
                body_limit_bytes=36 << 20,
                readiness=lambda: Readiness("ready", {}),
                lifespan=nothing,
            )
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.protocols.append(send.__self__)
        await self.shell(scope, receive, send)

    def guesses(self) -> int:
        """Return how often the engine was asked."""
        return len(self.engine.requests)

    @asynccontextmanager
    async def talk(self, query: str = "?intent=transcription", **config: Any) -> Any:
        """Open a connection, and configure it if there is something to configure."""
        url = self.url.replace("http", "ws") + PATH + query
        async with connect(url, proxy=None, max_size=None, close_timeout=1) as connection:
            talk = Talk(connection)
            await talk.event("session.created")
            if config:
                await talk.configure(**config)
            yield talk


def session_of(**fields: Any) -> dict[str, Any]:
    return {"type": "transcription", "audio": {"input": fields}}


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].rpartition("input_audio_transcription.")[2] for event in events]


def of_turn(events: list[dict[str, Any]]) -> list[str]:
    return [kind for kind in kinds(events) if kind != "delta"]


def deltas(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in events if event["type"].endswith(".delta"))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a state that has no event, for at most five seconds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


VAD_TURN = [
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
    "completed",
]
