"""audio/speech/stream with the shell, a real uvicorn, and an engine that plays tones."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from services.audio.resample import Resampler
from services.errors import InvalidRequestError, NotFoundError
from services.openai.models import Models
from services.openai.paths import SPEECH_STREAM
from services.openai.speech import INPUT_CHARACTERS
from services.server import live
from services.server.admission import Limits
from services.server.serving import Readiness, RoleApp
from services.server.shell import Shell
from services.speech import socket, socket_text, speakers
from services.speech.engines.protocol import Capability, VoiceReference
from services.speech.engines.segments import Segmenter
from services.speech.socket import SpeechSocket
from services.speech.socket_text import MESSAGE_CHARACTERS, parse_message
from services.speech.voices import VoiceStore
from tests.decoding import decode
from tests.fakes.speech_engine import CHARACTER_S, FakeEngine
from tests.sounds import FORMATS
from tests.speech_app import without

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from services.audio.formats import AudioFormat

PATH = SPEECH_STREAM
ROOMY = Limits(slots=4, queue=4, deadline_s=30)
RATE_HZ = 24_000
CHARACTER_BYTES = int(RATE_HZ * CHARACTER_S) * 2
STREAMED = {"voice": "alloy", "stream_audio": True, "response_format": "pcm"}


@dataclass(frozen=True)
class Speakers(speakers.Speakers):
    """Knows a registered voice `mine`, unless it is in `deleted`, and takes any recording."""

    deleted: list[str] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)

    async def named(self, name: str) -> str | VoiceReference:
        if name != "mine":
            return name
        if self.deleted:
            raise NotFoundError("voice 'mine' is gone", param="voice", code="voice_not_found")
        return VoiceReference(np.zeros(16_000, np.float32), 16_000, id="mine")

    async def recorded(
        self, ref_audio: str, text: str | None, consent: str | None
    ) -> VoiceReference:
        self.asked.append((ref_audio, text, consent))
        return VoiceReference(np.zeros(16_000, np.float32), 16_000, text)


class Broken(FakeEngine):
    """An engine with a bug."""

    async def synthesise(self, request: Any) -> Any:
        yield np.zeros(2400, np.float32)
        raise KeyError(request.voice)


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield


class Talk:
    """The client's side of a connection."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def say(self, kind: str, **fields: Any) -> None:
        await self.connection.send(json.dumps({"type": kind, **fields}))

    async def configure(self, **fields: Any) -> None:
        await self.say("session.config", **{**STREAMED, **fields})

    async def write(self, *pieces: str) -> None:
        for piece in pieces:
            await self.say("input.text", text=piece)

    async def event(self, kind: str) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(await self.connection.recv())
        assert event["type"] == kind, event
        return event

    async def fault(self) -> tuple[str | None, str | None]:
        event = await self.event("error")
        assert event["message"] == event["error"]["message"]
        assert set(event["error"]) == {"message", "type", "param", "code"}
        return event["error"]["param"], event["error"]["code"]

    async def until(self, kind: str) -> tuple[list[dict[str, Any]], list[bytes]]:
        """Return the events up to the first of a kind, and the audio between them."""
        events: list[dict[str, Any]] = []
        audio: list[bytes] = []
        while not events or events[-1]["type"] != kind:
            data = await self.connection.recv()
            if isinstance(data, bytes):
                audio.append(data)
            else:
                events.append(json.loads(data))
        return events, audio

    async def close_code(self) -> int | None:
        with suppress(ConnectionClosed):
            while True:
                await self.connection.recv()
        return self.connection.close_code


class Served:
    """An engine behind the WebSocket, in its own shell."""

    def __init__(self, engine: FakeEngine, limits: Limits) -> None:
        self.engine = engine
        store = VoiceStore(Path("/nonexistent/voices"))
        self.speakers = Speakers(engine, store, {}, "open")
        self.seconds: list[tuple[float, str]] = []
        self.protocols: list[Any] = []
        self.url = ""
        app = SpeechSocket(
            self.speakers,
            Models(("fake", "tts-1"), role="speech"),
            lambda seconds, format_: self.seconds.append((seconds, format_)),
        )

        async def socket_(scope: Any, receive: Any, send: Any) -> None:
            await app(scope, receive, send)

        self.shell = Shell(
            RoleApp(
                role="speech",
                handlers={},
                sockets={PATH: socket_},
                limits=limits,
                body_limit_bytes=1 << 20,
                readiness=lambda: Readiness("ready", {}),
                lifespan=nothing,
            )
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.protocols.append(send.__self__)
        await self.shell(scope, receive, send)

    @asynccontextmanager
    async def talk(self, **config: Any) -> AsyncIterator[Talk]:
        """Open a connection, configured unless `config` is `voice=None`."""
        url = self.url.replace("http", "ws") + PATH
        async with connect(url, proxy=None, max_size=None, close_timeout=1) as connection:
            talk = Talk(connection)
            if config.get("voice", "") is not None:
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


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a state that has no event, for at most a second."""
    async with asyncio.timeout(1):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


# An utterance


async def test_audio_comes_while_the_text_is_still_being_written(served: Any) -> None:
    role = await served()
    async with role.talk() as talk:
        await talk.write("ab")
        start = await talk.event("audio.start")
        assert start == {
            "type": "audio.start",
            "utterance_index": 0,
            "sentence_index": 0,
            "sentence_text": "ab",
            "format": "pcm",
            "sample_rate": RATE_HZ,
        }
        size = 0
        while size < 2 * CHARACTER_BYTES - 2000:  # the resampler's and the step's remainder
            size += len(await talk.connection.recv())
        await talk.write("cd")  # nothing has ended yet
        await talk.say("input.done")
        events, audio = await talk.until("session.done")
        size += sum(map(len, audio))
    assert size == 4 * CHARACTER_BYTES
    assert events == [
        {
            "type": "audio.done",
            "utterance_index": 0,
            "sentence_index": 0,
            "total_bytes": size,
            "error": False,
        },
        {"type": "session.done", "utterance_index": 0, "total_sentences": 1},
    ]
    assert role.seconds == [(pytest.approx(0.4), "pcm")]


async def test_one_utterance_after_another_with_another_configuration(served: Any) -> None:
    role = await served()
    async with role.talk(seed=1, speed=2.0, language="en", instructions="softly") as talk:
        await talk.write("one")
        await talk.say("input.done")
        first, _ = await talk.until("session.done")
        await talk.configure(voice="echo")
        await talk.write("two")
        await talk.say("input.done")
        second, audio = await talk.until("session.done")
    assert [event["utterance_index"] for event in first + second] == [0, 0, 0, 1, 1, 1]
    assert sum(map(len, audio)) == 3 * CHARACTER_BYTES
    asked = [
        (one.voice, one.seed, one.speed, one.language, one.instructions)
        for one in role.engine.requests
    ]
    assert asked == [("alloy", 1, 2.0, "en", "softly"), ("echo", None, 1.0, None, None)]


async def test_what_an_utterance_took_is_freed_with_it(served: Any) -> None:
    def resamplers() -> int:
        return sum(isinstance(one, Resampler) for one in gc.get_objects())

    role = await served()
    gc.collect()
    before = resamplers()
    gc.disable()
    try:
        async with role.talk(sample_rate=16_000) as talk:
            await talk.write("abcd")
            await talk.event("audio.start")
            assert resamplers() > before
            await talk.say("input.done")
            await talk.until("session.done")
            await until(lambda: resamplers() == before)
    finally:
        gc.enable()


async def test_the_next_utterance_may_be_written_while_this_one_is_spoken(served: Any) -> None:
    role = await served()
    async with role.talk() as talk:
        for text in ("one", "two", "three"):
            await talk.write(text)
            await talk.say("input.done")
        await talk.say("session.close")
        events = []
        for _ in range(3):
            events += (await talk.until("session.done"))[0]
        assert await talk.close_code() == 1000
    assert [event["utterance_index"] for event in events] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("audio_format", FORMATS)
async def test_by_default_an_answer_is_one_message_that_is_a_whole_file(
    served: Any, audio_format: AudioFormat
) -> None:
    role = await served()
    async with role.talk(stream_audio=False, response_format=audio_format) as talk:
        await talk.write("hello there")
        await talk.say("input.done")
        events, (audio,) = await talk.until("session.done")
    assert events[0]["sentence_text"] == "hello there"
    assert events[1]["total_bytes"] == len(audio)
    samples = (
        np.frombuffer(audio, "<i2")
        if audio_format == "pcm"
        else decode(audio, sample_rate_hz=RATE_HZ)
    )
    assert len(samples) / RATE_HZ == pytest.approx(11 * CHARACTER_S, abs=0.15)


async def test_a_whole_wav_says_how_long_it_is_and_bare_samples_at_which_rate(served: Any) -> None:
    role = await served()
    async with role.talk(stream_audio=False, response_format="wav", sample_rate=8000) as talk:
        await talk.write("ab")
        await talk.say("input.done")
        events, (audio,) = await talk.until("session.done")
        assert "sample_rate" not in events[0]
        assert int.from_bytes(audio[40:44], "little") == len(audio) - 44
        await talk.configure(response_format="ulaw")
        await talk.write("ab")
        await talk.say("input.done")
        events, audio = await talk.until("session.done")
    assert events[0]["sample_rate"] == 8000
    assert abs(len(b"".join(audio)) - 8000 * 2 * CHARACTER_S) <= 1


async def test_an_answer_too_large_for_one_message_is_refused(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "WHOLE_BYTES", 3 * CHARACTER_BYTES)
    role = await served()
    async with role.talk(stream_audio=False) as talk:
        await talk.write("four", "more")
        await talk.say("input.done")
        (_, done, error), audio = await talk.until("error")
        assert (done["type"], done["error"], done["action"]) == ("audio.done", True, "discard")
        assert error["error"]["code"] == "audio_too_long"
        assert audio == []
        await talk.event("session.done")
        await talk.write("ok")  # and the next one is spoken
        await talk.say("input.done")
        await talk.until("session.done")
    assert role.engine.active == 0


@pytest.mark.parametrize(
    ("granularity", "units"),
    [
        ("sentence", ["One, and one more here.", "Two of them follow!"]),
        ("clause", ["One,", "and one more here.", "Two of them follow!"]),
    ],
)
async def test_units_are_spoken_before_the_utterance_is_whole(
    served: Any, granularity: str, units: list[str]
) -> None:
    role = await served()
    async with role.talk(split_granularity=granularity) as talk:
        await talk.write("One, and o", "ne more here. Two o")
        for index in range(len(units) - 1):
            events, audio = await talk.until("audio.done")
            assert events[0]["sentence_text"] == units[index]
            assert events[0]["sentence_index"] == index
            assert sum(map(len, audio)) == len(units[index]) * CHARACTER_BYTES
        await talk.write("f them follow!")
        await talk.say("input.done")
        events, _ = await talk.until("session.done")
    assert events[0]["sentence_text"] == units[-1]
    assert events[-1]["total_sentences"] == len(units)


@given(text=st.text(alphabet="ab1 ,;.!?\n，。", max_size=80), cuts=st.lists(st.integers(0, 80)))  # noqa: RUF001
@pytest.mark.parametrize("granularity", ["sentence", "clause"])
def test_units_do_not_depend_on_how_the_text_was_cut(
    granularity: Any, text: str, cuts: list[int]
) -> None:
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    whole, parts = (Segmenter(clauses=granularity == "clause") for _ in range(2))
    wanted = whole.feed(text) + whole.finish()
    found = [unit for piece in pieces for unit in parts.feed(piece)] + parts.finish()
    assert found == wanted


def test_a_number_is_no_clause() -> None:
    segmenter = Segmenter(clauses=True)
    assert segmenter.feed("It is 1,") + segmenter.feed("000 or so, and") + segmenter.finish() == [
        "It is 1,000 or so,",
        "and",
    ]


@pytest.mark.parametrize("granularity", ["sentence", "clause"])
async def test_an_utterance_with_nothing_to_say_is_no_fault(served: Any, granularity: str) -> None:
    role = await served()
    async with role.talk(split_granularity=granularity) as talk:
        for pieces in ([], [""], [" ", "...", "\n"]):
            await talk.write(*pieces)
            await talk.say("input.done")
            assert (await talk.event("session.done"))["total_sentences"] == 0


# Who speaks


async def test_a_registered_voice_is_looked_up_for_each_utterance(served: Any) -> None:
    role = await served()
    async with role.talk(voice="mine") as talk:
        await talk.write("a")
        await talk.say("input.done")
        await talk.until("session.done")
        assert role.engine.requests[0].reference.id == "mine"
        role.speakers.deleted.append("mine")
        await talk.write("b")
        await talk.write("c")
        await talk.say("input.done")
        assert await talk.fault() == ("voice", "voice_not_found")
        assert (await talk.event("session.done"))["total_sentences"] == 0
    assert len(role.engine.requests) == 1


async def test_a_recording_is_resolved_once(served: Any) -> None:
    role = await served()
    recording = {"ref_audio": "data:audio/wav;base64,AAAA", "ref_text": "hi", "consent": "cons_1"}
    async with role.talk(**recording) as talk:
        for _ in range(2):
            await talk.write("a")
            await talk.say("input.done")
            await talk.until("session.done")
    assert role.speakers.asked == [("data:audio/wav;base64,AAAA", "hi", "cons_1")]
    assert role.engine.requests[1].reference.text == "hi"


async def test_vllm_omnis_other_name_of_a_voice_and_its_empty_fields_pass(served: Any) -> None:
    role = await served()
    async with role.talk(voice=None) as talk:
        empty = {"task_type": None, "word_timestamps": False, "x_vector_only_mode": False}
        await talk.say("session.config", speaker="echo", speed=None, **empty)
        await talk.say("input.done")
        await talk.event("session.done")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"voice": "nobody"}, "voice", "voice_not_found"),
        ({"voice": 1}, "voice", "invalid_type"),
        ({"voice": ""}, "voice", "string_below_min_length"),
        ({"model": "gpt-5"}, "model", "model_not_found"),
        ({"speed": 5.0}, "speed", "decimal_above_max_value"),
        ({"speed": "1"}, "speed", "invalid_type"),
        ({"response_format": "ogg"}, "response_format", "invalid_value"),
        ({"sample_rate": 8001}, "sample_rate", "invalid_value"),
        ({"sample_rate": 44_100, "response_format": "opus"}, "sample_rate", "invalid_value"),
        ({"split_granularity": "word"}, "split_granularity", "invalid_value"),
        ({"seed": 1 << 64}, "seed", "invalid_value"),
        ({"speeds": 1}, "speeds", "unknown_parameter"),
        ({"task_type": "Base"}, "task_type", "unsupported_parameter"),
        ({"word_timestamps": True}, "word_timestamps", "unsupported_parameter"),
        ({"max_new_tokens": 10}, "max_new_tokens", "unsupported_parameter"),
        ({"ref_text": "hi"}, "ref_text", "invalid_value"),
        ({"instructions": "x" * 4097}, "instructions", "string_above_max_length"),
    ],
)
async def test_a_wrong_configuration_names_the_field(
    served: Any, fields: dict[str, Any], param: str, code: str
) -> None:
    role = await served()
    async with role.talk(**fields) as talk:
        assert await talk.fault() == (param, code)
        assert await talk.close_code() == 1008
    async with role.talk() as talk:  # a later one leaves the first in force
        await talk.configure(**fields)
        assert await talk.fault() == (param, code)
        await talk.write("a")
        await talk.say("input.done")
        await talk.until("session.done")


async def test_a_field_that_the_engine_lacks_is_refused(served: Any) -> None:
    class Deaf(FakeEngine):
        capabilities = frozenset[Capability]()

    async with (await served(Deaf())).talk(seed=1) as talk:
        assert await talk.fault() == ("seed", "unsupported_parameter")


async def test_instructions_that_the_engine_cannot_follow_are_ignored(served: Any) -> None:
    role = await served(without(FakeEngine(), Capability.INSTRUCTIONS))
    async with role.talk(instructions="softly", language="English") as talk:
        await talk.write("ab")
        await talk.say("input.done")
        await talk.until("session.done")
    assert (role.engine.requests[0].instructions, role.engine.requests[0].language) == (None, "en")


# What the client does wrong


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("{", "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        ("9" * 5000, "invalid_json"),
        ("[]", "invalid_type"),
        ("null", "invalid_type"),
        ("{}", "invalid_value"),
        ('{"type": ["input.text"]}', "invalid_value"),
        ('{"type": "input.text"}', "invalid_type"),
        ('{"type": "input.text", "text": 1}', "invalid_type"),
        ('{"type": "input.text", "text": "a", "texts": 1}', "unknown_parameter"),
        (b"\x00\x01", "invalid_message"),
    ],
)
async def test_a_message_that_cannot_be_read_changes_nothing(
    served: Any, said: str | bytes, code: str
) -> None:
    role = await served()
    async with role.talk() as talk:
        await talk.connection.send(said)
        assert (await talk.fault())[1] == code
        await talk.write("ab")
        await talk.until("audio.start")
        await talk.connection.send(said)  # in the middle of an utterance as well
        events, _ = await talk.until("error")
        assert events[-1]["error"]["code"] == code
        await talk.say("input.done")
        await talk.until("session.done")
    async with role.talk(voice=None) as talk:
        await talk.connection.send(said)
        assert (await talk.fault())[1] == code
        assert await talk.close_code() == 1008


def test_a_message_too_large_to_be_valid_is_not_taken_apart() -> None:
    for recordings, code in ((False, "message_too_large"), (True, "invalid_json")):
        with pytest.raises(InvalidRequestError) as refused:
            parse_message("{" + " " * MESSAGE_CHARACTERS, recordings=recordings)
        assert refused.value.code == code


async def test_text_before_the_configuration_ends_the_connection(served: Any) -> None:
    async with (await served()).talk(voice=None) as talk:
        await talk.write("hello")
        assert await talk.fault() == ("type", "session_not_configured")
        assert await talk.close_code() == 1008


async def test_a_configuration_in_the_middle_of_an_utterance_is_refused(served: Any) -> None:
    async with (await served()).talk() as talk:
        await talk.write("a")
        await talk.configure(voice="echo")
        events, _ = await talk.until("error")
        assert events[-1]["error"]["code"] == "utterance_in_progress"
        await talk.say("input.done")
        await talk.until("session.done")


async def test_text_is_bounded_by_the_message_and_by_the_utterance(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_text, "UTTERANCE_CHARACTERS", INPUT_CHARACTERS)
    role = await served()
    async with role.talk(speed=4.0) as talk:
        await talk.write("x" * (INPUT_CHARACTERS + 1))
        assert await talk.fault() == ("text", "string_above_max_length")
        await talk.write("x" * (INPUT_CHARACTERS - 2), "yyy", "z")
        (*_, told), audio = await talk.until("error")
        assert (told["error"]["param"], told["error"]["code"]) == (
            "text",
            "string_above_max_length",
        )
        await talk.say("input.done")
        _, rest = await talk.until("session.done")
    said = sum(map(len, [*audio, *rest]))
    assert said == (INPUT_CHARACTERS - 1) * CHARACTER_BYTES // 4, "all but what was too much"


async def test_text_without_a_form_in_utf8_is_spoken_around(served: Any) -> None:
    role = await served()
    async with role.talk() as talk:
        await talk.connection.send('{"type": "input.text", "text": "a\\ud800\\u0000b"}')
        await talk.say("input.done")
        events, _ = await talk.until("session.done")
        assert events[0]["sentence_text"] == "a  b"


_TEXT = st.text(st.characters(categories=["L", "N", "P", "Z", "Cc", "Cs"]), max_size=20)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner),
    max_leaves=6,
)
_FIELDS = _TEXT | st.sampled_from(
    ["text", "voice", "speaker", "speed", "seed", "ref_audio", "model", "response_format", "extra"]
)
_TYPES = st.sampled_from(["session.config", "input.text", "input.done", "session.close", "other"])
_OBJECTS = st.builds(
    lambda kind, fields: {**fields, "type": kind}, _TYPES, st.dictionaries(_FIELDS, _JSON)
)
_SAID = st.binary(max_size=40) | st.text(max_size=40) | (_JSON | _OBJECTS).map(json.dumps)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(said=st.lists(_SAID.filter(lambda one: isinstance(one, bytes) or one.isascii()), max_size=6))
@pytest.mark.parametrize("configured", [True, False])
def test_no_message_breaks_the_server(
    configured: bool,  # noqa: FBT001
    said: list[str | bytes],
) -> None:
    asyncio.run(_survives(said, configured=configured))


async def _survives(said: list[str | bytes], *, configured: bool) -> None:
    """Say all of it to a session without a network: it answers, waits or ends as it should."""
    engine = FakeEngine()
    await engine.start()
    heard: list[Any] = []
    messages: asyncio.Queue[Any] = asyncio.Queue()
    config = [json.dumps({"type": "session.config", **STREAMED})] if configured else []
    messages.put_nowait({"type": "websocket.connect"})
    for one in [*config, *said]:
        kind = "bytes" if isinstance(one, bytes) else "text"
        messages.put_nowait({"type": "websocket.receive", kind: one})

    async def send(message: Any) -> None:
        if message["type"] == "websocket.send" and "text" in message:
            message["text"].encode()
        heard.append(message)

    scope = {
        "type": "websocket", "path": PATH, "headers": [], "subprotocols": [], "extensions": {},
    }  # fmt: skip
    serving = asyncio.create_task(Served(engine, Limits(1, 1, 30)).shell(scope, messages.get, send))
    for _ in range(200):
        await asyncio.sleep(0)
    messages.put_nowait({"type": "websocket.disconnect", "code": 1001})
    async with asyncio.timeout(5):
        await serving
    faults = [
        json.loads(message["text"])["error"]
        for message in heard
        if message["type"] == "websocket.send" and '"error", "message"' in message.get("text", "")
    ]
    assert all(fault["code"] != "internal_error" for fault in faults)
    assert engine.active == 0
    assert heard[0]["type"] == "websocket.accept"
    if said and not configured:
        assert faults
        assert heard[-1] == {"type": "websocket.close", "code": 1008, "reason": faults[-1]["code"]}


# Silence, hang-up, slots


async def test_a_client_that_never_configures_is_closed_with_3008(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "CONFIG_S", 0.02)
    async with (await served()).talk(voice=None) as talk:
        assert (await talk.fault())[1] == "idle_timeout"
        assert await talk.close_code() == 3008


async def test_silence_between_utterances_is_closed_with_3008(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "IDLE_S", 0.05)
    async with (await served()).talk() as talk:
        assert (await talk.fault())[1] == "idle_timeout"
        assert await talk.close_code() == 3008


async def test_silence_in_an_utterance_ends_it_with_what_was_written(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_text, "TEXT_S", 0.05)
    role = await served()
    async with role.talk() as talk:
        await talk.write("ab")
        (_, done, error), audio = await talk.until("error")
        assert (done["error"], error["error"]["code"]) == (False, "idle_timeout")
        assert sum(map(len, audio)) == 2 * CHARACTER_BYTES
        assert await talk.close_code() == 3008
    assert role.shell.admission.in_use == 0


@pytest.mark.parametrize("config", [{}, {"split_granularity": "sentence"}])
@pytest.mark.parametrize("hang_up", ["close", "vanish"])
async def test_a_client_that_leaves_frees_the_slot_and_stops_the_engine(
    served: Any, config: dict[str, Any], hang_up: str
) -> None:
    role = await served(FakeEngine(delay_s=0.001))
    async with role.talk(**config) as talk:
        await talk.write("A sentence that goes on and on and on. " * 20)
        await talk.until("audio.start")
        assert (role.engine.active, role.shell.admission.in_use) == (1, 1)
        if hang_up == "close":
            await talk.connection.close()
        else:
            talk.connection.transport.abort()
        await until(lambda: (role.engine.active, role.shell.admission.in_use) == (0, 0))
    await until(lambda: role.shell.open_sockets == 0)


async def test_a_client_that_leaves_while_its_text_is_awaited_frees_the_slot(served: Any) -> None:
    role = await served()
    async with role.talk() as talk:
        await talk.write("a")
        await talk.until("audio.start")
        await talk.connection.close()
        await until(lambda: (role.engine.active, role.shell.admission.in_use) == (0, 0))


async def test_session_close_in_an_utterance_stops_the_engine(served: Any) -> None:
    role = await served(FakeEngine(delay_s=0.001))
    async with role.talk() as talk:
        await talk.write("ab")
        await talk.until("audio.start")
        await talk.say("session.close")
        assert await talk.close_code() == 1000
    assert role.engine.active == 0


@pytest.mark.parametrize("granularity", ["none", "sentence"])
async def test_a_cancelled_utterance_stops_and_the_next_one_is_spoken(
    served: Any, granularity: str
) -> None:
    role = await served(FakeEngine(delay_s=0.001), limits=Limits(1, 0, 30))
    async with role.talk(split_granularity=granularity) as talk:
        await talk.write("A sentence that goes on and on and on. " * 100)
        await talk.say("input.done")
        await talk.until("audio.start")
        assert (role.engine.active, role.shell.admission.in_use) == (1, 1)
        await talk.say("input.cancel")
        events, audio = await talk.until("session.done")
        assert [event["type"] for event in events[-2:]] == ["audio.done", "session.done"]
        assert all(event["cancelled"] for event in events[-2:])
        assert (events[-1]["utterance_index"], len(audio) < 2000) == (0, True)
        assert (role.engine.active, role.shell.admission.in_use) == (0, 0)
        await talk.write("ok")
        await talk.say("input.done")
        events, audio = await talk.until("session.done")
        assert (events[-1]["utterance_index"], "cancelled" in events[-1]) == (1, False)
        assert sum(map(len, audio)) == 2 * CHARACTER_BYTES


async def test_a_cancelled_whole_answer_has_no_audio(served: Any) -> None:
    role = await served(FakeEngine(delay_s=0.001))
    async with role.talk(stream_audio=False) as talk:
        await talk.write("long " * 100)
        await talk.until("audio.start")
        await talk.say("input.cancel")
        (done, ended), audio = await talk.until("session.done")
    assert (done["total_bytes"], done["cancelled"], ended["cancelled"], audio) == (
        0,
        True,
        True,
        [],
    )


async def test_text_that_is_still_being_written_is_cancelled_without_a_sound(served: Any) -> None:
    role = await served()
    async with role.talk(split_granularity="sentence") as talk:
        await talk.write("never ", "heard")
        await talk.say("input.cancel")
        (ended,), audio = await talk.until("session.done")
        assert (ended["cancelled"], ended["total_sentences"], audio) == (True, 0, [])
    assert role.engine.requests == []


async def test_a_cancel_drops_the_text_that_waits_and_keeps_the_configuration(served: Any) -> None:
    role = await served(FakeEngine(delay_s=0.001))
    async with role.talk() as talk:
        await talk.write("long " * 100)
        await talk.until("audio.start")
        await talk.say("input.done")
        await talk.write("dropped")
        await talk.say("input.done")
        await talk.configure(voice="echo")
        await talk.say("input.cancel")
        await talk.write("next")
        await talk.say("input.done")
        first, _ = await talk.until("session.done")
        second, _ = await talk.until("session.done")
    assert (first[-1]["cancelled"], second[0]["sentence_text"]) == (True, "next")
    assert [request.voice for request in role.engine.requests] == ["alloy", "echo"]


async def test_a_cancel_with_nothing_under_way_does_nothing(served: Any) -> None:
    role = await served()
    async with role.talk() as talk:
        for _ in range(3):
            await talk.say("input.cancel")
        await talk.write("ab")
        await talk.say("input.done")
        events, _ = await talk.until("session.done")
        await talk.write("cd")
        await talk.say("input.cancel")
        await talk.say("session.close")
        assert await talk.close_code() == 1000
    assert [event["type"] for event in events] == ["audio.start", "audio.done", "session.done"]


async def test_an_utterance_that_waits_for_a_slot_can_be_cancelled(served: Any) -> None:
    role = await served(limits=Limits(1, 1, 30))
    async with role.talk() as first, role.talk() as second:
        await first.write("a")
        await first.until("audio.start")
        await second.write("b")
        await until(lambda: role.shell.admission.waiting == 1)
        await second.say("input.cancel")
        assert (await second.event("session.done"))["cancelled"]
        assert role.shell.admission.waiting == 0


async def test_an_idle_connection_holds_no_slot_and_an_utterance_waits_for_one(
    served: Any,
) -> None:
    role = await served(limits=Limits(1, 1, 30))
    async with role.talk() as first, role.talk() as second:
        assert role.shell.admission.in_use == 0
        await first.write("a")
        await first.until("audio.start")
        await second.write("b")
        await second.say("input.done")
        await until(lambda: role.shell.admission.waiting == 1)
        url = role.url.replace("http", "ws") + PATH
        with pytest.raises(InvalidStatus) as refused:  # an utterance would be, so this is now
            await connect(url, proxy=None)
        assert refused.value.response.status_code == 429
        await first.say("input.done")
        await first.until("session.done")
        await second.until("session.done")
    assert role.shell.admission.in_use == 0


async def test_an_utterance_without_a_slot_is_told_and_closed_with_1013(served: Any) -> None:
    role = await served(limits=Limits(1, 0, 30))
    async with role.talk() as first, role.talk() as second:
        await first.write("a")
        await first.until("audio.start")
        await second.write("b")
        assert (await second.fault())[1] == "rate_limit_exceeded"
        assert await second.close_code() == 1013


async def test_an_engine_that_is_not_ready_is_503_before_accept(served: Any) -> None:
    role = await served()
    await role.engine.close()
    with pytest.raises(InvalidStatus) as refused:
        await connect(role.url.replace("http", "ws") + PATH, proxy=None)
    assert refused.value.response.status_code == 503


# Engine faults, slow readers, the end


@pytest.mark.parametrize("config", [{}, {"split_granularity": "sentence"}])
async def test_an_engine_that_fails_is_an_event_and_1011(
    served: Any, config: dict[str, Any]
) -> None:
    role = await served(FakeEngine(fail_at="!"))
    async with role.talk(**config) as talk:
        await talk.write("A sentence to be said! ")
        await talk.say("input.done")
        events, _ = await talk.until("error")
        assert [event["type"] for event in events] == ["audio.start", "audio.done", "error"]
        assert events[1]["error"]
        assert events[1]["partial_audio"]
        assert events[2]["error"]["code"] == "engine_failed"
        assert await talk.close_code() == 1011
    assert (role.engine.active, role.shell.admission.in_use) == (0, 0)
    assert len(role.seconds) == 1


async def test_an_engines_bug_is_told_without_its_words(served: Any) -> None:
    async with (await served(Broken())).talk() as talk:
        await talk.write("a")
        events, _ = await talk.until("error")
        assert events[-1]["error"]["code"] == "engine_failed"
        assert "alloy" not in events[-1]["message"]
        assert await talk.close_code() == 1011


async def test_a_slow_reader_holds_the_engine_back(served: Any) -> None:
    role = await served()
    made: list[float] = []

    class Counting(FakeEngine):
        async def _frame(self, character: str, speed: float) -> Any:
            made.append(speed)
            return await super()._frame(character, speed)

    role = await served(Counting(sample_rate_hz=24_000))
    async with role.talk(speed=0.25) as talk:
        for _ in range(8):
            await talk.write("x" * INPUT_CHARACTERS)  # 630 MB of audio
        before = -1
        while len(made) != before:
            before = len(made)
            await asyncio.sleep(0.2)
        assert before < 8 * INPUT_CHARACTERS / 4
        assert role.engine.active == 1


async def test_a_client_far_ahead_is_read_no_further(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "HELD_CHARACTERS", 200)
    role = await served(FakeEngine(delay_s=0.0005))
    async with role.talk() as talk:
        for text in ("ab" * 40,) * 6:
            await talk.write(text)
            await talk.say("input.done")
        for _ in range(6):
            _, audio = await talk.until("session.done")
            assert sum(map(len, audio)) == 80 * CHARACTER_BYTES


async def test_at_shutdown_the_utterance_is_finished_and_1012_follows(served: Any) -> None:
    role = await served(FakeEngine(delay_s=0.001))
    async with role.talk() as talk, role.talk() as idle:
        await idle.say("input.done")
        await idle.event("session.done")
        await talk.write("ab")
        await talk.until("audio.start")
        for protocol in role.protocols:
            protocol.shutdown()
        assert await idle.close_code() == 1012
        await talk.write("cd")
        await talk.say("input.done")
        events, _ = await talk.until("session.done")
        assert events[0]["total_bytes"] == 4 * CHARACTER_BYTES
        assert await talk.close_code() == 1012
