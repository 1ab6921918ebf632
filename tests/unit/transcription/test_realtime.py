"""/v1/realtime behind the shell and a real uvicorn, with an engine that hears tones."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from services.admission import Limits
from services.audio.pcm import to_bytes, to_int16
from services.openai.realtime import AUDIO_CHARACTERS
from services.openai.sockets import TRANSCRIPTION
from services.shell import Readiness, RoleApp, Shell
from services.transcription import realtime
from services.transcription.engines.fake import FakeEngine
from services.transcription.engines.protocol import (
    SAMPLE_RATE_HZ,
    WINDOW_S,
    GuessRequest,
    TranscriptionRequest,
)
from services.transcription.hearing import HELD_SAMPLES
from services.transcription.item import Item
from services.transcription.realtime import RealtimeSocket
from tests.hearing_app import said

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

(PATH,) = TRANSCRIPTION
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


class Talk:
    """A client's side of one connection."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def say(self, kind: str, **fields: Any) -> None:
        await self.connection.send(json.dumps({"type": kind, **fields}))

    async def configure(self, include: list[str] | None = None, **fields: Any) -> dict[str, Any]:
        session: dict[str, Any] = {"type": "transcription", "audio": {"input": fields}}
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
    """An engine behind the WebSocket, in a shell of its own."""

    def __init__(self, engine: FakeEngine, limits: Limits) -> None:
        self.engine = engine
        self.seconds: list[float] = []
        self.protocols: list[Any] = []
        self.url = ""
        app = RealtimeSocket(engine, ("fake", "whisper-1"), self.seconds.append)

        async def socket(scope: Any, receive: Any, send: Any) -> None:
            await app(scope, receive, send)

        @asynccontextmanager
        async def nothing() -> AsyncIterator[None]:
            yield

        self.shell = Shell(
            RoleApp(
                role="transcription",
                asgi=socket,
                paths={},
                sockets={PATH: socket},
                admitted=frozenset(),
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


@pytest.fixture
def served(serve: Any) -> Callable[..., Any]:
    """Return `await served(engine)`, a `Served`."""

    async def start(engine: FakeEngine | None = None, limits: Limits = ROOMY) -> Served:
        made = Served(engine or FakeEngine(), limits)
        await made.engine.start()
        made.url = await serve(made)
        return made

    return start


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].rpartition("input_audio_transcription.")[2] for event in events]


def of_turn(events: list[dict[str, Any]]) -> list[str]:
    return [kind for kind in kinds(events) if kind != "delta"]


def deltas(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in events if event["type"].endswith(".delta"))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a state that has no event, for at most a second."""
    async with asyncio.timeout(1):
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


# A turn


async def test_text_comes_while_somebody_still_speaks(served: Any) -> None:
    role = await served()
    async with role.talk() as talk:
        events = await talk.begin(role.guesses, TEXT[:24])  # the rest is not even sent yet
        await talk.speak(to_bytes(said(TEXT[24:] + "|" * 8, RATE_HZ)))
        events += await talk.until("completed")
    assert of_turn(events) == VAD_TURN
    assert events[0]["audio_start_ms"] == 500
    stopped = events[[one["type"] for one in events].index(VAD_TURN[1])]
    assert stopped["audio_end_ms"] == 4512  # 4 s, and the frames that make 500 ms
    assert deltas(events) == TEXT
    final = events[-1]
    assert final["transcript"] == TEXT
    assert final["usage"] == {"type": "duration", "seconds": 4.012}
    assert role.seconds == [pytest.approx(4.012)]
    (item_id,) = {event["item_id"] for event in events if "item_id" in event}
    added = next(event for event in events if event["type"] == "conversation.item.added")
    assert added["item"]["id"] == item_id
    assert added["item"]["content"] == [{"type": "input_audio", "transcript": None}]
    before = kinds(events).index("input_audio_buffer.speech_stopped")
    assert len(deltas(events[:before]).split()) >= 4  # of seven words


async def test_text_that_wavers_is_never_taken_back(served: Any) -> None:
    role = await served(FakeEngine(wavering=True))
    async with role.talk() as talk:
        events = await talk.begin(role.guesses)
        await talk.speak(QUIET)
        events += await talk.until("completed")
    assert "delta" in kinds(events[: kinds(events).index("input_audio_buffer.speech_stopped")])
    assert deltas(events) == events[-1]["transcript"] == TEXT


async def test_a_final_text_that_contradicts_what_was_said_continues_it_instead(
    served: Any,
) -> None:
    class SecondThoughts(FakeEngine):
        async def transcribe(self, request: Any) -> Any:
            async for segment in super().transcribe(request):
                yield replace(segment, text=segment.text.upper())

    role = await served(SecondThoughts())
    async with role.talk() as talk:
        events = await talk.begin(role.guesses)
        await talk.speak(QUIET)
        events += await talk.until("completed")
        await talk.speak(spoken("Hi"))  # too short for a guess
        assert (await talk.until("completed"))[-1]["transcript"] == "HI"
    assert deltas(events) == events[-1]["transcript"] == TEXT


async def test_one_turn_after_another_in_their_order(served: Any) -> None:
    role = await served(FakeEngine(delay_s=0.02))
    async with role.talk() as talk:
        for text in ("one", "two", "three"):
            await talk.speak(spoken(text))
        events = []
        for _ in range(3):
            events += await talk.until("completed")
    done = [event for event in events if event["type"].endswith("completed")]
    assert [event["transcript"] for event in done] == ["one", "two", "three"]
    committed = [event for event in events if event["type"].endswith("committed")]
    ids = [event["item_id"] for event in committed]
    assert [event["previous_item_id"] for event in committed] == [None, *ids[:2]]
    assert [event["item_id"] for event in done] == ids
    # who speaks is told at once, whatever is still being heard
    assert (
        kinds(events).index("completed") > kinds(events).index("input_audio_buffer.committed") + 2
    )


async def test_silence_is_no_turn(served: Any) -> None:
    role = await served()
    async with role.talk() as talk:
        await talk.speak(to_bytes(said("|" * 50, RATE_HZ)))
        await talk.configure()
    assert role.engine.requests == []


async def test_logprobs_come_with_the_final_text(served: Any) -> None:
    role = await served()
    async with role.talk(include=["item.input_audio_transcription.logprobs"]) as talk:
        await talk.speak(spoken("ab"))
        events = await talk.until("completed")
    delta, final = events[-2:]
    assert final["logprobs"] == delta["logprobs"]
    assert "".join(token["token"] for token in final["logprobs"]) == " ab"
    assert final["logprobs"][1] == {"token": "a", "bytes": [97], "logprob": -0.1}
    assert deltas(events) == "ab"


@pytest.mark.parametrize(
    ("live_format", "law"), [("audio/pcmu", "pcm_mulaw"), ("audio/pcma", "pcm_alaw")]
)
async def test_telephones_are_heard(served: Any, live_format: str, law: str) -> None:
    role = await served()
    encoder = av.CodecContext.create(law, "w")
    encoder.sample_rate, encoder.layout, encoder.format = 8_000, "mono", "s16"
    samples = to_int16(said("|" * 8 + "hello world" + "|" * 13, 8_000))[np.newaxis]
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
    frame.sample_rate = 8_000
    data = b"".join(bytes(packet) for packet in encoder.encode(frame))
    async with role.talk(format={"type": live_format}, **MANUAL) as talk:
        await talk.speak(data)
        await talk.say("input_audio_buffer.commit")
        # Where a tone begins and ends it rings, which is heard as another.
        assert "hello world" in (await talk.until("completed"))[-1]["transcript"]


# Turns that the client commits


async def test_without_turn_detection_the_client_commits(served: Any) -> None:
    role = await served()
    async with role.talk(**MANUAL) as talk:
        events = await talk.begin(role.guesses)  # before it is committed
        await talk.say("input_audio_buffer.commit")
        events += await talk.until("completed")
        assert of_turn(events) == VAD_TURN[2:]
        assert deltas(events) == events[-1]["transcript"] == TEXT
        assert events[-1]["usage"]["seconds"] == pytest.approx(0.8 + len(TEXT) / 10)
        await talk.speak(to_bytes(said("and more", RATE_HZ)))
        await talk.say("input_audio_buffer.commit")
        assert (await talk.until("completed"))[-1]["transcript"] == "and more"


async def test_a_commit_needs_a_tenth_of_a_second(served: Any) -> None:
    role = await served()
    async with role.talk(**MANUAL) as talk:
        await talk.say("input_audio_buffer.commit")
        assert (await talk.fault())[1] == "input_audio_buffer_commit_empty"
        await talk.append(to_bytes(said("a", RATE_HZ))[: PIECE // 2])
        await talk.say("input_audio_buffer.commit", event_id="mine")
        error = (await talk.event("error"))["error"]
        assert error["event_id"] == "mine"
        assert "50 ms" in error["message"]
    async with role.talk() as talk:  # and with turn detection, somebody who speaks
        await talk.append(bytes(PIECE))
        await talk.say("input_audio_buffer.commit")
        assert (await talk.fault())[1] == "input_audio_buffer_commit_empty"


async def test_a_commit_ends_a_turn_that_goes_on(served: Any) -> None:
    role = await served()
    async with role.talk() as talk:
        await talk.speak(to_bytes(said("|" * 8 + "abcdefgh" * 2, RATE_HZ)))
        await talk.event(VAD_TURN[0])
        await talk.say("input_audio_buffer.commit")
        events = await talk.until("completed")
        assert of_turn(events) == VAD_TURN[2:]
        assert events[-1]["transcript"].startswith("abcdefghabcdefg")
        await talk.speak(to_bytes(said("more" + "|" * 8, RATE_HZ)))
        assert of_turn(await talk.until("completed")) == VAD_TURN


@pytest.mark.parametrize("config", [{}, MANUAL])
async def test_what_is_cleared_is_forgotten(served: Any, config: dict[str, Any]) -> None:
    role = await served(FakeEngine(delay_s=0.01))
    async with role.talk(**config) as talk:
        await talk.begin(role.guesses)
        await talk.say("input_audio_buffer.clear")
        await talk.until("input_audio_buffer.cleared")
        await until(lambda: (role.engine.active, role.shell.admission.in_use) == (0, 0))
        await talk.speak(spoken("now"))
        if config:
            await talk.say("input_audio_buffer.commit")
        events = await talk.until("completed")
    assert events[-1]["transcript"] == "now"
    assert len({event["item_id"] for event in events if "item_id" in event}) == 1


async def test_silence_before_speech_is_not_kept_for_the_commit(served: Any) -> None:
    role = await served()
    async with role.talk(**MANUAL) as talk:
        for _ in range(4):
            await talk.append(bytes(60 * RATE_HZ * 2))
        await talk.configure(**MANUAL)
        assert role.shell.admission.in_use == 0
        await talk.speak(to_bytes(said("hello", RATE_HZ)))
        await talk.say("input_audio_buffer.commit")
        final = (await talk.until("completed"))[-1]
    assert final["transcript"] == "hello"
    assert final["usage"]["seconds"] == pytest.approx(240.5, abs=0.01)
    assert sizes(role) <= WINDOW_S


# Turns without end, clients ahead of their time


def sizes(role: Served) -> float:
    """Return the seconds of the longest piece that the engine was given."""
    found = [
        one.samples.size if isinstance(one, GuessRequest) else sum(a.size for a in one.audio)
        for one in role.engine.requests
    ]
    return max(found) / SAMPLE_RATE_HZ


@pytest.mark.parametrize("config", [{}, MANUAL])
async def test_a_turn_of_minutes_is_heard_in_pieces(served: Any, config: dict[str, Any]) -> None:
    role = await served()
    words = [f"{one}{two}{one}{two}" for one in "abcdefgh" for two in "abcdefgh"]
    # Each 0.4 s of a word is followed by 0.4 s of silence, less than ends a turn.
    speech = to_bytes(said("|" * 8 + "".join(f"{word}||||" for word in words) + "||||", RATE_HZ))
    async with role.talk(**config) as talk:
        await talk.speak(speech)
        if config:
            await talk.say("input_audio_buffer.commit")
        events = await talk.until("completed")
    # A cut falls between two tones; its neighbours last longer, and where they ring is another.
    heard = events[-1]["transcript"].split()
    assert [[one for one in dict.fromkeys(word) if one in "abcdefgh"] for word in heard] == [
        list(dict.fromkeys(word)) for word in words
    ]
    assert deltas(events) == events[-1]["transcript"]
    assert sizes(role) <= WINDOW_S
    assert len([one for one in role.engine.requests if isinstance(one, TranscriptionRequest)]) == 3


async def test_silence_is_not_asked_about(served: Any) -> None:
    role = await served()
    async with role.talk(**MANUAL) as talk:
        await talk.begin(role.guesses)
        for _ in range(10):  # the speaker has ended, and the client commits much later
            await talk.speak(QUIET)
        await talk.say("input_audio_buffer.commit")
        events = await talk.until("completed")
    assert events[-1]["transcript"] == TEXT
    guesses = [one.samples.size for one in role.engine.requests if isinstance(one, GuessRequest)]
    assert max(guesses) < (1 + 0.8 + len(TEXT) / 10 + 2 * 0.5) * SAMPLE_RATE_HZ
    assert len([one for one in role.engine.requests if isinstance(one, TranscriptionRequest)]) == 1


async def test_silence_at_the_end_of_a_long_turn_is_no_text(served: Any) -> None:
    role = await served()
    speech = "abcdefg " * 23 + "abcdefgh"  # 19.2 s, and a pause when it is time to cut
    async with role.talk(
        turn_detection={"type": "server_vad", "silence_duration_ms": 3000}
    ) as talk:
        await talk.speak(to_bytes(said(PAUSE + speech + PAUSE * 4, RATE_HZ)))
        events = await talk.until("completed")
    assert events[-1]["transcript"] == speech
    heard = [one for one in role.engine.requests if isinstance(one, TranscriptionRequest)]
    assert len(heard) == 1
    assert events[-1]["usage"]["seconds"] > 22


async def test_a_client_far_ahead_is_held_back(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    add = Item.add

    def adding(item: Item, samples: Any, *, speech: bool) -> None:
        add(item, samples, speech=speech)
        held.append(item.held)

    monkeypatch.setattr(Item, "add", adding)
    role = await served(FakeEngine(delay_s=0.01))
    speech = to_bytes(said("|" * 8 + "abcdefg " * 250 + "|" * 8, RATE_HZ))  # 200 s, at once
    async with role.talk() as talk:
        await talk.append(speech)
        events = await talk.until("completed")
    assert len(events[-1]["transcript"]) > 1900
    assert sum(held) > 0
    assert max(held) < HELD_SAMPLES + SAMPLE_RATE_HZ


async def test_twenty_sessions_speak_to_one_engine_at_once(served: Any) -> None:
    role = await served(limits=Limits(slots=20, queue=0, deadline_s=30))
    texts = [f"speaker {chr(97 + one)} says what only {chr(97 + one)} says" for one in range(20)]
    began = asyncio.Barrier(len(texts))

    async def session(text: str) -> list[dict[str, Any]]:
        def guesses() -> int:
            return sum(one.prompt == text for one in role.engine.requests)

        async with role.talk(transcription={"prompt": text}) as talk:
            events: list[dict[str, Any]] = await talk.begin(guesses, text[:24])
            await began.wait()
            await talk.speak(to_bytes(said(text[24:] + "|" * 8, RATE_HZ)))
            return events + await talk.until("completed")

    async with asyncio.timeout(30):
        found = await asyncio.gather(*map(session, texts))
    for text, events in zip(texts, found, strict=True):
        assert of_turn(events) == VAD_TURN
        assert deltas(events) == events[-1]["transcript"] == text
    await until(lambda: role.shell.admission.in_use == 0)


# The session


async def test_a_session_is_shown_as_it_is_set(served: Any) -> None:
    role = await served()
    url = role.url.replace("http", "ws") + PATH
    async with connect(url, proxy=None) as connection:
        session = (await Talk(connection).event("session.created"))["session"]
    assert session.pop("id").startswith("sess_")
    assert session == {
        "object": "realtime.transcription_session",
        "type": "transcription",
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24_000},
                "transcription": {"model": "fake", "language": None, "prompt": ""},
                "noise_reduction": None,
                "turn_detection": {
                    "type": "server_vad",
                    "threshold": 0.5,
                    "prefix_padding_ms": 300,
                    "silence_duration_ms": 500,
                },
            }
        },
        "include": None,
    }


async def test_an_update_changes_what_it_names_and_nothing_else(served: Any) -> None:
    role = await served()
    async with role.talk() as talk:
        transcription = {"model": "whisper-1", "language": "de-AT", "prompt": "Namen: Anna"}
        await talk.configure(transcription=transcription, include=[])
        await talk.configure(turn_detection={"type": "server_vad", "silence_duration_ms": 200})
        event = await talk.configure(format={"type": "audio/pcmu"}, noise_reduction=None)
        shown = event["session"]["audio"]["input"]
        assert shown["transcription"] == {**transcription, "language": "de"}
        assert shown["turn_detection"]["silence_duration_ms"] == 200
        assert shown["turn_detection"]["prefix_padding_ms"] == 300
        assert shown["format"] == {"type": "audio/pcmu"}
        await talk.configure(format={"type": "audio/pcm"})
        await talk.speak(spoken(TEXT))
        await talk.until("completed")
    assert {one.language for one in role.engine.requests} == {"de"}
    assert {one.prompt for one in role.engine.requests} == {"Namen: Anna"}


async def test_sound_that_came_before_the_update_is_not_lost(served: Any) -> None:
    role = await served()
    async with role.talk() as talk:  # a client that speaks first and says later that it commits
        await talk.speak(to_bytes(said("|" * 8 + "abcdefgh", RATE_HZ)))
        await talk.event(VAD_TURN[0])
        await talk.configure(**MANUAL)
        await talk.speak(to_bytes(said("ijklmnop", RATE_HZ)))
        await talk.say("input_audio_buffer.commit")
        events = await talk.until("completed")
        assert of_turn(events) == VAD_TURN[2:]
        assert events[-1]["transcript"] == "abcdefghijklmnop"
        await talk.speak(to_bytes(said("qrst|||", RATE_HZ)))
        await talk.say("session.update", session=session_of(turn_detection={"type": "server_vad"}))
        events = await talk.until("completed")
        assert events[-1]["transcript"] == "qrst"


def session_of(**fields: Any) -> dict[str, Any]:
    return {"type": "transcription", "audio": {"input": fields}}


VAD = {"type": "server_vad"}


@pytest.mark.parametrize(
    ("session", "param", "code"),
    [
        ({"type": "realtime"}, "type", "unsupported_value"),
        ({}, "type", "missing_required_parameter"),
        ({"type": "transcription", "voice": "alloy"}, "voice", "unknown_parameter"),
        ({"type": "transcription", "include": ["words"]}, "include.0", "invalid_value"),
    ],
)
async def test_a_session_of_another_kind_is_refused(
    served: Any, session: dict[str, Any], param: str, code: str
) -> None:
    async with (await served()).talk() as talk:
        await talk.say("session.update", session=session)
        assert await talk.fault() == (f"session.{param}", code)


@pytest.mark.parametrize(
    ("field", "value", "param", "code"),
    [
        ("volume", 1, "", "unknown_parameter"),
        ("noise_reduction", {"type": "near_field"}, "", "unsupported_value"),
        ("turn_detection", {"type": "semantic_vad"}, ".type", "unsupported_value"),
        ("turn_detection", {**VAD, "threshold": 2}, ".threshold", "decimal_above_max_value"),
        ("turn_detection", {**VAD, "create_response": True}, ".create_response", "invalid_value"),
        ("turn_detection", {**VAD, "idle_timeout_ms": 5000}, ".idle_timeout_ms", "invalid_value"),
        ("format", {"type": "audio/opus"}, ".type", "invalid_value"),
        ("format", {"type": "audio/pcm", "rate": 16000}, ".rate", "invalid_value"),
        ("format", {"type": "audio/pcmu", "rate": 24000}, ".rate", "unsupported_parameter"),
        ("transcription", None, "", "unsupported_value"),
        ("transcription", {"model": "gpt-5"}, ".model", "model_not_found"),
        ("transcription", {"language": "tlh"}, ".language", "unsupported_language"),
        ("transcription", {"language": "?"}, ".language", "invalid_value"),
        ("transcription", {"languages": ["en", "xx"]}, ".languages", "unsupported_language"),
        ("transcription", {"language": "en", "languages": ["de"]}, ".languages", "invalid_value"),
        ("transcription", {"prompt": "x" * 4097}, ".prompt", "string_above_max_length"),
        ("transcription", {"delay": "low"}, ".delay", "invalid_value"),
    ],
)
async def test_what_is_not_offered_is_refused_by_its_name(
    served: Any, field: str, value: Any, param: str, code: str
) -> None:
    role = await served()
    async with role.talk() as talk:
        session = session_of(**{field: value})
        await talk.say("session.update", session=session, event_id="mine")
        error = (await talk.event("error"))["error"]
        place = f"session.audio.input.{field}{param}"
        assert (error["param"], error["code"], error["event_id"]) == (place, code, "mine")
        shown = (await talk.configure())["session"]
        assert shown["audio"]["input"]["transcription"]["model"] == "fake"
        await talk.speak(spoken("ok"))  # and the session goes on as it was
        assert (await talk.until("completed"))[-1]["transcript"] == "ok"


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ("{", None, "invalid_json"),
        ("[" * 100_000, None, "invalid_json"),
        ("[]", None, "invalid_type"),
        (b"\x00\x01", None, "invalid_message"),
        ("{}", "type", "invalid_value"),
        ('{"type": ["session.update"]}', "type", "invalid_value"),
        ('{"type": "response.create"}', "type", "invalid_value"),
        ('{"type": "session.update"}', "session", "missing_required_parameter"),
        ('{"type": "input_audio_buffer.append"}', "audio", "missing_required_parameter"),
        ('{"type": "input_audio_buffer.append", "audio": 1}', "audio", "invalid_type"),
        ('{"type": "input_audio_buffer.append", "audio": "?"}', "audio", "invalid_base64"),
        ('{"type": "input_audio_buffer.append", "audio": "AAA"}', "audio", "invalid_base64"),
        ('{"type": "input_audio_buffer.append", "audio": "\\u00e9"}', "audio", "invalid_base64"),
        ('{"type": "input_audio_buffer.commit", "now": true}', "now", "unknown_parameter"),
    ],
)
async def test_a_message_that_cannot_be_read_changes_nothing(
    served: Any, message: str | bytes, param: str | None, code: str
) -> None:
    role = await served()
    async with role.talk() as talk:
        speech = spoken("ok")
        await talk.speak(speech[: len(speech) // 2])
        await talk.event(VAD_TURN[0])
        await talk.connection.send(message)
        assert await talk.fault() == (param, code)
        await talk.speak(speech[len(speech) // 2 :])
        assert (await talk.until("completed"))[-1]["transcript"] == "ok"


async def test_an_append_is_bounded(served: Any) -> None:
    role = await served()
    async with role.talk() as talk:
        await talk.say("input_audio_buffer.append", audio="A" * (AUDIO_CHARACTERS + 1))
        assert await talk.fault() == ("audio", "string_above_max_length")


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [("?intent=conversation", 400, "intent"), ("?model=gpt-realtime", 404, "model")],
)
async def test_an_address_for_something_else_is_refused_before_it_is_opened(
    served: Any, query: str, status: int, param: str
) -> None:
    role = await served()
    with pytest.raises(InvalidStatus) as refused:
        await connect(role.url.replace("http", "ws") + PATH + query, proxy=None)
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body or b"")["error"]["param"] == param


async def test_a_browser_hears_its_subprotocol_back(served: Any) -> None:
    role = await served()
    url = role.url.replace("http", "ws") + PATH + "?model=whisper-1"
    offered: Any = ["realtime", "openai-insecure-api-key.none"]
    async with connect(url, proxy=None, subprotocols=offered) as connection:
        assert connection.subprotocol == "realtime"
        session = (await Talk(connection).event("session.created"))["session"]
    assert session["audio"]["input"]["transcription"]["model"] == "whisper-1"


# Slots, hang-ups, faults, the end


async def test_an_open_session_holds_no_slot_until_somebody_speaks(served: Any) -> None:
    role = await served(limits=Limits(1, 1, 30))
    async with role.talk() as first, role.talk() as second:
        for talk in (first, second):
            await talk.append(bytes(RATE_HZ))
            await talk.configure()
        assert role.shell.admission.in_use == 0
        await first.speak(to_bytes(said("|" * 8 + "abcdefgh", RATE_HZ)))
        await first.event(VAD_TURN[0])
        await until(lambda: role.shell.admission.in_use == 1)
        await second.speak(spoken("two"))
        await until(lambda: role.shell.admission.waiting == 1)
        assert of_turn(await second.until("item.done")) == VAD_TURN[:5]
        await first.speak(bytes(RATE_HZ * 2))
        await first.until("completed")
        await second.until("completed")
        await until(lambda: role.shell.admission.in_use == 0)


async def test_a_turn_without_a_slot_is_told_and_closed_with_1013(served: Any) -> None:
    role = await served(limits=Limits(1, 0, 30))
    async with role.talk() as first, role.talk() as second:
        await first.speak(to_bytes(said("|" * 8 + "abcdefgh", RATE_HZ)))
        await first.event(VAD_TURN[0])
        await until(lambda: role.shell.admission.in_use == 1)
        await second.speak(to_bytes(said("|" * 8 + "abcdefgh", RATE_HZ)))
        assert (await second.until("error"))[-1]["error"]["code"] == "rate_limit_exceeded"
        assert await second.close_code() == 1013


@pytest.mark.parametrize("moment", ["while it lasts", "after it"])
@pytest.mark.parametrize("hang_up", ["close", "vanish"])
async def test_a_client_that_leaves_frees_the_slot_and_stops_the_engine(
    served: Any, hang_up: str, moment: str
) -> None:
    role = await served(FakeEngine(delay_s=30))
    async with role.talk() as talk:
        await talk.speak(
            spoken("hello") if moment == "after it" else to_bytes(said("|" * 8 + TEXT, RATE_HZ))
        )
        await talk.until("item.done" if moment == "after it" else "speech_started")
        await until(lambda: (role.engine.active, role.shell.admission.in_use) == (1, 1))
        if hang_up == "close":
            await talk.connection.close()
        else:
            talk.connection.transport.abort()
        await until(lambda: (role.engine.active, role.shell.admission.in_use) == (0, 0))
    await until(lambda: role.shell.open_sockets == 0)


class Broken(FakeEngine):
    """An engine with a bug."""

    async def transcribe(self, request: Any) -> Any:
        yield None
        raise KeyError(request.language)


@pytest.mark.parametrize("engine", [FakeEngine(fail_at="bad"), Broken()])
async def test_a_turn_on_which_the_engine_fails_is_told_and_the_session_goes_on(
    served: Any, engine: FakeEngine
) -> None:
    role = await served(engine)
    async with role.talk() as talk:
        await talk.speak(spoken("bad"))
        events = await talk.until("failed")
        assert of_turn(events) == [*VAD_TURN[:-1], "failed"]
        assert events[-1]["error"]["code"] == "engine_failed"
        assert events[-1]["error"]["type"] == "server_error"
        if isinstance(engine, Broken):
            return
        await talk.speak(spoken("good"))
        assert (await talk.until("completed"))[-1]["transcript"] == "good"
    assert (role.engine.active, role.shell.admission.in_use) == (0, 0)


async def test_a_guess_that_fails_ends_its_turn_only(served: Any) -> None:
    class Stumbling(FakeEngine):
        stumbles = False

        async def guess(self, request: Any) -> Any:
            if self.stumbles:
                raise KeyError("a bug")
            return await super().guess(request)

    role = await served(Stumbling())
    async with role.talk() as talk:
        await talk.begin(role.guesses)
        role.engine.stumbles = True
        await talk.speak(to_bytes(said("and more", RATE_HZ)))
        await talk.until("failed")
        await until(lambda: role.shell.admission.in_use == 0)
        role.engine.stumbles = False
        await talk.speak(QUIET)
        await talk.speak(spoken("good"))
        events = await talk.until("completed")
    assert events[-1]["transcript"] == "good"
    assert of_turn(events) == [*VAD_TURN[1:5], *VAD_TURN]


async def test_an_engine_that_is_not_ready_is_503_before_accept_and_says_why(served: Any) -> None:
    role = await served(FakeEngine(ready=False))
    with pytest.raises(InvalidStatus) as refused:
        await connect(role.url.replace("http", "ws") + PATH, proxy=None)
    assert refused.value.response.status_code == 503
    message = json.loads(refused.value.response.body or b"")["error"]["message"]
    assert message == role.engine.status


async def test_an_engine_that_is_gone_meanwhile_ends_the_session(served: Any) -> None:
    role = await served()
    async with role.talk() as talk:
        await role.engine.close()
        await talk.speak(spoken("hello"))
        assert (await talk.until("failed"))[-1]["error"]["code"] == "service_unavailable"
        await talk.event("error")
        assert await talk.close_code() == 1013


async def test_a_client_that_says_nothing_is_closed_with_3008(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realtime, "IDLE_S", 0.05)
    async with (await served()).talk() as talk:
        assert (await talk.fault())[1] == "idle_timeout"
        assert await talk.close_code() == 3008


async def test_silence_in_a_turn_ends_it_with_what_was_said(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realtime, "TURN_S", 0.05)
    role = await served()
    async with role.talk() as talk:
        await talk.speak(to_bytes(said("|" * 8 + "hello there ", RATE_HZ)))
        events = await talk.until("completed")
        assert events[-1]["transcript"].startswith("hello ther")
        assert (await talk.fault())[1] == "idle_timeout"
        assert await talk.close_code() == 3008
    assert role.shell.admission.in_use == 0


async def test_at_shutdown_the_turn_is_heard_to_its_end_and_1012_follows(served: Any) -> None:
    role = await served()
    async with role.talk() as talk, role.talk() as idle:
        events = await talk.begin(role.guesses)
        for protocol in role.protocols:
            protocol.shutdown()
        assert await idle.close_code() == 1012
        events += await talk.until("completed")
        assert TEXT.startswith(events[-1]["transcript"])  # the last of it may not have come
        assert deltas(events) == events[-1]["transcript"]
        assert await talk.close_code() == 1012


# Whatever is sent

_TEXT = st.text(st.characters(categories=["L", "N", "P", "Z", "Cc", "Cs"]), max_size=20)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
_INPUT = st.dictionaries(
    st.sampled_from(["format", "transcription", "turn_detection", "noise_reduction", "x"]),
    _JSON
    | st.sampled_from([{"type": "audio/pcmu"}, {"type": "server_vad"}, {"model": "fake"}, None]),
)
_UPDATES = st.builds(
    lambda fields: {"type": "session.update", "session": session_of(**fields)}, _INPUT
)
_SOUND = to_bytes(said("|ab|", RATE_HZ))
_AUDIO = st.sampled_from([b"", b"\x01", _SOUND, _SOUND * 30]).map(
    lambda data: {"type": "input_audio_buffer.append", "audio": base64.b64encode(data).decode()}
)
_BARE = st.sampled_from(["commit", "clear", "append"]).map(
    lambda kind: {"type": f"input_audio_buffer.{kind}"}
)
_ODD = st.builds(
    lambda kind, fields: {**fields, "type": kind},
    st.sampled_from(["session.update", "input_audio_buffer.append", "other"]),
    st.dictionaries(_TEXT | st.sampled_from(["session", "audio", "event_id"]), _JSON, max_size=3),
)
_SAID = (
    st.binary(max_size=40)
    | st.text(max_size=40)
    | (_UPDATES | _AUDIO | _BARE | _ODD | _JSON).map(json.dumps)
)


@settings(max_examples=80, deadline=None)
@given(said_=st.lists(_SAID, max_size=10))
def test_no_message_breaks_the_server(said_: list[str | bytes]) -> None:
    asyncio.run(_survives(said_))


async def _survives(said_: list[str | bytes]) -> None:
    """Say all of it to a session without a network: it answers each, and ends as it should."""
    engine = FakeEngine()
    await engine.start()
    heard: list[Any] = []
    answered = asyncio.Event()
    messages: asyncio.Queue[Any] = asyncio.Queue()
    messages.put_nowait({"type": "websocket.connect"})
    for one in [*said_, json.dumps({"type": "last", "event_id": "last"})]:
        kind = "bytes" if isinstance(one, bytes) else "text"
        messages.put_nowait({"type": "websocket.receive", kind: one})

    async def send(message: Any) -> None:
        if message["type"] == "websocket.send":
            message["text"].encode()
            if json.loads(message["text"]).get("error", {}).get("event_id") == "last":
                answered.set()
        heard.append(message)

    scope = {
        "type": "websocket", "path": PATH, "headers": [], "subprotocols": [], "extensions": {},
    }  # fmt: skip
    role = Served(engine, Limits(1, 1, 30))
    serving = asyncio.create_task(role.shell(scope, messages.get, send))
    async with asyncio.timeout(5):
        await answered.wait()
        messages.put_nowait({"type": "websocket.disconnect", "code": 1001})
        await serving
    events = [json.loads(one["text"]) for one in heard if one["type"] == "websocket.send"]
    assert all(one["error"]["code"] != "internal_error" for one in events if "error" in one)
    assert (engine.active, role.shell.admission.in_use) == (0, 0)
    by_item: dict[str, str] = {}
    for event in events:
        if event["type"].endswith("transcription.delta"):
            by_item[event["item_id"]] = by_item.get(event["item_id"], "") + event["delta"]
        if event["type"].endswith("transcription.completed"):
            assert by_item.get(event["item_id"], "") == event["transcript"]
