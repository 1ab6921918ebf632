"""POST /v1/audio/speech-translations, with the audio roles' real routes and fake engines."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from services.audio.encode import to_wav
from services.audio.formats import MEDIA_TYPES
from services.backends.pools import Pools
from services.conversation.speech_translation.routes import SpeechTranslation
from services.engines import create
from services.openai.body import ClientGoneError
from services.settings.sections import (
    ConversationSettings,
    TranslationSettings,
)
from services.speech.voices import VoiceStore
from tests.decoding import decode
from tests.fakes.speech_engine import FakeEngine
from tests.fakes.transcription_engine import FakeEngine as FakeEar
from tests.fakes.transcription_engine import _characters
from tests.hearing_app import hearing_app, recording, said
from tests.sounds import FORMATS
from tests.speech_app import RECORDING, app_of, ready, shelled
from tests.translating_app import TranslatingChat, text_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

PATH = "/v1/audio/speech-translations"
TWO = "hello there||||||||||how are you"  # a second of silence between the two


class Rig:
    """A gateway with three roles: the real routes of two, with fake engines."""

    def __init__(self, store: VoiceStore, engine: Any = None) -> None:
        self.chat = TranslatingChat()
        self.voice = engine or FakeEngine(fail_at="!")
        self.ear = FakeEar(fail_at="failing")
        self.store = store
        self.speech = app_of(self.voice, store)
        self.hearing = hearing_app(self.ear)
        self.door: Any = None
        self.client = httpx.AsyncClient()

    async def start(self, serve: Any, door: Any, **rules: Any) -> None:
        await self.voice.start()
        await self.ear.start()
        roles = {
            "chat": [await serve(self.chat)],
            "speech": [await serve(ready(shelled(self.speech)))],
            "transcription": [await serve(ready(shelled(self.hearing)))],
        }
        self.door = await door(**roles, conversation=rules)
        self.client = httpx.AsyncClient(base_url=self.door.url, timeout=20)

    async def post(self, text: str | bytes = TWO, **fields: Any) -> httpx.Response:
        return await self.client.post(PATH, **sent(text, fields))

    def idle(self) -> bool:
        return not (self.voice.active or self.ear.active or self.chat.at_once)


def sent(text: str | bytes, fields: dict[str, Any]) -> dict[str, Any]:
    data = recording(text) if isinstance(text, str) else text
    texts = {"language": "de", **fields}
    return {
        "files": {"file": ("talk.wav", data, "audio/wav")},
        "data": {name: str(value) for name, value in texts.items() if value is not None},
    }


@pytest.fixture
async def rig(
    serve: Any, door: Any, tmp_path: Path
) -> AsyncIterator[Callable[..., Awaitable[Rig]]]:
    rigs: list[Rig] = []

    async def start(engine: Any = None, **rules: Any) -> Rig:
        rigs.append(Rig(VoiceStore(tmp_path), engine))
        await rigs[-1].start(serve, door, **rules)
        return rigs[-1]

    yield start
    for one in rigs:
        one.chat.free.set()
        await one.client.aclose()


def events(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream"
    return [json.loads(line[6:]) for line in response.text.splitlines() if line]


def heard(pcm: bytes) -> str:
    """Return what the fake ear hears in what the fake voice spoke."""
    samples = decode_pcm(pcm)
    return "".join(one or " " for one in _characters([samples])).strip()


def decode_pcm(pcm: bytes) -> Any:
    samples = np.frombuffer(pcm, dtype="<i2").astype(np.float32) / 32768
    return decode(to_wav(samples, 24_000), sample_rate_hz=16_000)


def fault(response: httpx.Response) -> tuple[int, str | None, str | None]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error["param"], error["code"]


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


# What comes out


async def test_speech_goes_in_and_its_translation_is_spoken(rig: Any) -> None:
    one = await rig()
    response = await one.post(response_format="pcm")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "audio/pcm"
    assert heard(response.content) == "HELLO THEREHOW ARE YOU"
    asked = [request.text for request in one.voice.requests]
    assert asked == ["HELLO THERE", "HOW ARE YOU"]
    assert {request.voice for request in one.voice.requests} == {"alloy"}
    assert {request.language for request in one.voice.requests} == {"de"}


@pytest.mark.parametrize("audio_format", FORMATS)
async def test_every_format_is_one_whole_file(rig: Any, audio_format: Any) -> None:
    one = await rig()
    response = await one.post(response_format=audio_format)
    assert response.headers["content-type"] == MEDIA_TYPES[audio_format]
    if audio_format != "pcm":
        samples = decode(response.content, sample_rate_hz=24_000)
        assert samples.size / 24_000 == pytest.approx(2.2, abs=0.12)


async def test_events_tell_source_translation_and_sound_of_each_sentence(rig: Any) -> None:
    one = await rig()
    told = events(await one.post(stream_format="sse", response_format="pcm"))
    kinds = [event["type"].removeprefix("speech.") for event in told]
    sound = [index for index, kind in enumerate(kinds) if kind == "audio.delta"]
    assert [kind for kind in kinds if kind != "audio.delta"] == [
        "input_transcript.delta",
        "output_transcript.delta",
        "input_transcript.delta",
        "output_transcript.delta",
        "audio.done",
    ]
    texts = [event["delta"] for event in told if "delta" in event]
    assert texts == ["hello there", "HELLO THERE", " how are you", " HOW ARE YOU"]
    first = told[0]
    assert (first["sentence"], first["start"], first["end"]) == (0, 0.0, 1.1)
    assert first["language"] == "en"
    for number, words in enumerate(["HELLO THERE", "HOW ARE YOU"]):
        pcm = [base64.b64decode(told[i]["audio"]) for i in sound if told[i]["sentence"] == number]
        assert heard(b"".join(pcm)) == words
    usage = told[-1]["usage"]
    assert usage == {"input_tokens": 32, "output_tokens": 44, "total_tokens": 76}


async def test_former_sentences_go_along_as_context(rig: Any) -> None:
    one = await rig()
    await one.post("one||||||||||two||||||||||three")
    turns = [[turn["content"] for turn in body["messages"][1:]] for body in one.chat.asked]
    assert [len(turn) for turn in turns] == [1, 3, 5]
    assert turns[2][1] == "ONE"
    assert text_of(one.chat.asked[2]) == "three"
    assert "from English into German" in one.chat.asked[0]["messages"][0]["content"]


async def test_what_is_in_the_target_language_is_only_spoken(rig: Any) -> None:
    one = await rig()
    response = await one.post(language="en", response_format="pcm")
    assert heard(response.content) == "hello therehow are you"
    assert not one.chat.asked


async def test_the_fields_go_to_whom_they_are_for(rig: Any) -> None:
    one = await rig()
    response = await one.post(
        source_language="fr-CA",
        prompt="Anna",
        voice="echo",
        speed="2",
        instructions="kindly",
        model="whisper-1",
        speech_model="tts-1",
        chat_model="translator",
        response_format="wav",
    )
    assert response.status_code == 200, response.text
    (request,) = one.ear.requests
    assert (request.language, request.prompt) == ("fr", "Anna")
    spoken = one.voice.requests[0]
    assert (spoken.voice, spoken.speed, spoken.instructions) == ("echo", 2.0, "kindly")
    assert "from French into German" in one.chat.asked[0]["messages"][0]["content"]


async def test_without_a_voice_it_is_one_of_the_target_language(rig: Any) -> None:
    one = await rig()
    await one.post(language="fr")
    assert one.voice.requests[0].voice == "echo"  # the only one that speaks French


async def test_an_engine_without_languages_goes_by_the_text(rig: Any) -> None:
    one = await rig()
    one.voice.capabilities = one.voice.capabilities - {"language"}
    assert (await one.post()).status_code == 200
    assert [request.language for request in one.voice.requests] == [None, None]


async def test_the_default_engine_speaks_the_target_language(rig: Any) -> None:
    espeak = create("speech", "espeak")
    await espeak.start()
    asked: list[Any] = []
    inner = espeak.synthesise

    def synthesise(request: Any) -> Any:
        asked.append(request)
        return inner(request)

    espeak.synthesise = synthesise  # type: ignore[method-assign]
    one = await rig(engine=espeak)
    try:
        for language, voice in [("de", "de"), ("pt-BR", "pt-br"), ("en", "alloy")]:
            response = await one.post(language=language, response_format="wav")
            assert response.status_code == 200, response.text
            assert (asked[-1].voice, asked[-1].language) == (voice, language)
            assert np.abs(decode(response.content, sample_rate_hz=16_000)).max() > 0.1
    finally:
        await espeak.close()


# The speaker's voice

LONG = "this is a long enough sentence of mine"


async def consent(one: Any) -> str:
    answer = await one.client.post(
        "/v1/audio/voice_consents",
        files={"recording": ("a.wav", RECORDING, "audio/wav")},
        data={"name": "Anna's", "language": "en"},
    )
    return str(answer.json()["id"])


async def test_with_a_consent_it_speaks_like_the_recording(rig: Any) -> None:
    one = await rig()
    response = await one.post(f"hi||||||||||{LONG}||||||||||bye", consent=await consent(one))
    assert response.status_code == 200, response.text
    references = [request.reference for request in one.voice.requests]
    assert len(references) == 3
    reference = references[0]
    assert reference.text == LONG
    assert 3.0 <= reference.samples.size / reference.sample_rate_hz <= 10.0
    frames = [one or " " for one in _characters([reference.samples])]
    assert reference.sample_rate_hz == 16_000
    assert "".join(frames).strip() == LONG


async def test_a_short_recording_gives_what_it_has(rig: Any) -> None:
    one = await rig()
    await one.post("just eleven", consent=await consent(one))
    assert one.voice.requests[0].reference.text == "just eleven"


async def test_the_consent_is_the_speech_services_to_check(rig: Any) -> None:
    one = await rig()
    assert fault(await one.post(LONG, consent="cons_none")) == (
        404,
        "consent",
        "consent_not_found",
    )
    one.voice.capabilities = one.voice.capabilities - {"reference"}
    kept = await consent(one)
    assert fault(await one.post(LONG, consent=kept)) == (400, "consent", "unsupported_parameter")
    assert not one.voice.requests


# What is refused, before any audio


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"language": None}, (400, "language", "missing_required_parameter")),
        ({"language": "qq"}, (400, "language", "unsupported_language")),
        ({"source_language": "qq"}, (400, "source_language", "unsupported_language")),
        ({"source_language": "ja"}, (400, "source_language", "unsupported_language")),
        ({"voice": "nobody"}, (404, "voice", "voice_not_found")),
        ({"voice": "alloy", "consent": "c"}, (400, "voice", "invalid_value")),
        ({"model": "nothing"}, (404, "model", "model_not_found")),
        ({"chat_model": "nothing"}, (404, "chat_model", "model_not_found")),
        ({"speech_model": "nothing"}, (404, "speech_model", "model_not_found")),
        ({"speed": "9"}, (400, "speed", "decimal_above_max_value")),
        ({"response_format": "mp4"}, (400, "response_format", "invalid_value")),
        ({"stream_format": "ndjson"}, (400, "stream_format", "invalid_value")),
        ({"voices": "1"}, (400, "voices", "unknown_parameter")),
    ],
)
@pytest.mark.parametrize("stream_format", ["audio", "sse"])
async def test_what_will_not_do_is_refused_with_its_field(
    rig: Any, fields: Any, wrong: Any, stream_format: str
) -> None:
    one = await rig()
    assert fault(await one.post(**{"stream_format": stream_format, **fields})) == wrong
    await until(one.idle)


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (b"no audio", (400, "file", "invalid_audio")),
        (recording("||||||||"), (400, "file", "no_speech")),
    ],
)
async def test_a_recording_that_says_nothing_is_400(rig: Any, data: bytes, wrong: Any) -> None:
    one = await rig()
    assert fault(await one.post(data)) == wrong
    response = await one.client.post(PATH, files={"language": (None, "de")})
    assert fault(response) == (400, "file", "missing_required_parameter")


async def test_a_model_that_fails_is_an_error_before_any_audio(rig: Any) -> None:
    one = await rig()
    one.chat.status, one.chat.error = 503, {"message": "gone", "type": "server_error"}
    assert fault(await one.post())[0] == 503
    await until(one.idle)


async def test_without_all_three_roles_the_path_is_not_there(door: Any, backend: Any) -> None:
    front = await door(
        chat=[(await backend()).url], speech=[(await backend()).url], conversation={}
    )
    async with httpx.AsyncClient(base_url=front.url) as client:
        assert (await client.post(PATH, **sent("a", {}))).status_code == 404


async def test_uploads_are_bounded(rig: Any) -> None:
    one = await rig(body_limit_mib=0.01)
    assert (await one.post(TWO)).status_code == 413
    assert not one.ear.requests


# Stages at the same time


async def test_a_sentence_is_spoken_while_the_next_is_translated(rig: Any) -> None:
    one = await rig()
    texts = iter(["FIRST", "SECOND"])

    def say(_text: str) -> str:
        one.chat.free.clear()  # what comes next is held
        return next(texts)

    one.chat.say = say
    asked = sent(TWO, {"response_format": "pcm"})
    async with one.client.stream("POST", PATH, **asked) as response:
        pieces = response.aiter_bytes()
        got = await anext(pieces)
        while len(got) < 4800 * 5:  # FIRST, whole
            got += await anext(pieces)
        assert heard(got) == "FIRST"
        await until(lambda: one.chat.at_once == 1)  # the second is being translated
        one.chat.free.set()
        got += b"".join([piece async for piece in pieces])
    assert heard(got) == "FIRSTSECOND"


def hold_third(ear: FakeEar) -> asyncio.Event:
    """Have the ear wait before the third segment until the event is set."""
    go_on = asyncio.Event()
    inner = ear.transcribe

    async def transcribe(request: Any) -> Any:
        async with aclosing(inner(request)) as segments:
            yield await anext(segments)
            yield await anext(segments)
            await go_on.wait()
            async for segment in segments:
                yield segment

    ear.transcribe = transcribe  # type: ignore[method-assign]
    return go_on


async def test_audio_comes_while_the_ear_still_listens(rig: Any) -> None:
    one = await rig()
    go_on = hold_third(one.ear)
    asked = sent("one||||||||||two||||||||||three", {"response_format": "pcm"})
    async with one.client.stream("POST", PATH, **asked) as response:
        pieces = response.aiter_bytes()
        got = await anext(pieces)
        assert one.ear.active == 1
        go_on.set()
        got += b"".join([piece async for piece in pieces])
    assert heard(got) == "ONETWOTHREE"


@pytest.mark.parametrize("role", ["chat", "voice", "ear"])
async def test_a_client_that_hangs_up_stops_every_backend(rig: Any, role: str) -> None:
    one = await rig()
    if role == "chat":
        one.chat.free.clear()
    elif role == "voice":
        one.voice.delay_s = 30
    else:
        one.ear.delay_s = 30
    asking = asyncio.ensure_future(one.post())
    busy = {
        "chat": lambda: one.chat.at_once,
        "voice": lambda: one.voice.active,
        "ear": lambda: one.ear.active,
    }[role]
    await until(lambda: busy() == 1)
    asking.cancel()
    await until(one.idle)
    await until(lambda: one.door.shell.admission.in_use == 0)
    assert all(backend.outstanding == 0 for backend in one.door.pools.backends())


async def test_a_client_that_does_not_read_stops_the_voice(rig: Any) -> None:
    one = await rig()
    # Minutes of speech, in sentences that take no time to translate.
    one.chat.say = lambda text: (text + " ").upper() * 370  # more than sockets hold
    asked = sent("||||||||||".join(["abcdefghij"] * 20), {"response_format": "wav"})
    made = 0
    frame = one.voice._frame

    async def counted(character: str, speed: float) -> Any:
        nonlocal made
        made += 1
        return await frame(character, speed)

    one.voice._frame = counted
    async with one.client.stream("POST", PATH, **asked) as response:
        pieces = response.aiter_raw()  # kept: httpx hangs up when nobody does
        await anext(pieces)
        before = -1
        while made != before or not one.voice.active:  # until every buffer on the way is full
            assert made < 20 * 11 * 370, "all of it"
            before = made
            await asyncio.sleep(0.2)
    await until(one.idle)


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
@pytest.mark.parametrize("broken", ["voice", "ear", "chat"])
async def test_a_backend_that_fails_in_the_middle_leaves_no_silent_end(
    rig: Any, broken: str, stream_format: str
) -> None:
    one = await rig()
    go_on = hold_third(one.ear)
    texts = iter(["FIRST", "SECO!ND" if broken == "voice" else "SECOND"])

    def say(_text: str) -> str:
        one.chat.free.clear()  # what comes next is held
        return next(texts)

    one.chat.say = say
    third = "failing" if broken == "ear" else "third"
    asked = sent(
        f"{TWO}||||||||||{third}", {"response_format": "pcm", "stream_format": stream_format}
    )
    async with one.client.stream("POST", PATH, **asked) as response:
        assert response.status_code == 200
        pieces = response.aiter_raw()
        await anext(pieces)
        go_on.set()
        if broken == "chat":
            one.chat.status, one.chat.error = 500, {"message": "died"}
        one.chat.free.set()
        with pytest.raises(httpx.RemoteProtocolError):
            async for _ in pieces:
                pass
    await until(one.idle)


async def test_more_than_the_slots_wait_and_past_them_it_is_429(rig: Any) -> None:
    one = await rig(translation={"speech_slots": 1})
    one.chat.free.clear()
    asking = [asyncio.ensure_future(one.post()) for _ in range(3)]
    done, waiting = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    assert fault(done.pop().result()) == (429, None, "rate_limit_exceeded")
    one.chat.free.set()
    assert [(await one).status_code for one in waiting] == [200, 200]


async def test_who_hangs_up_while_waiting_leaves_the_queue() -> None:
    settings = ConversationSettings(translation=TranslationSettings(speech_slots=1))
    routes = SpeechTranslation(Pools({}, settings), settings)
    request = httpx.Request("POST", "http://door" + PATH, **sent(TWO, {}))
    await routes._admission.acquire()
    gone = asyncio.Event()
    body = [{"type": "http.request", "body": request.read()}]

    async def receive() -> dict[str, Any]:
        if not body:
            await gone.wait()
            return {"type": "http.disconnect"}
        return body.pop()

    async def send(message: Any) -> None:
        raise AssertionError(message)

    headers = [(name.lower(), value) for name, value in request.headers.raw]
    scope = {"headers": headers, "bentovox.request_id": b"r"}
    waiting = asyncio.ensure_future(routes(scope, receive, send))
    await until(lambda: routes._admission.waiting == 1)
    gone.set()
    with pytest.raises(ClientGoneError):
        await waiting
    assert routes._admission.waiting == 0


def test_the_tones_of_both_fakes_are_the_same() -> None:
    assert "".join(one for one in _characters([said("HELLO THERE")])) == "HELLO THERE"
