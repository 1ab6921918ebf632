from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from services.audio.formats import MEDIA_TYPES
from services.errors import EngineError
from services.openai.body import ClientGoneError
from services.speech.engines.protocol import Capability, ConversionRequest
from services.speech.voices import VoiceStore
from tests.decoding import decode
from tests.fakes.speech_engine import FakeEngine
from tests.sounds import FORMATS
from tests.speech_app import RECORDING, Served, fault, recording, without

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import httpx

PATH = "/v1/audio/voice-conversion"
NOWHERE = "cons_" + "0" * 32


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    store = VoiceStore(tmp_path / "store")
    served = Served(FakeEngine(fail_at="x"), store, aliases={"nova": "Anna"})
    await served.engine.start()
    async with served.client:
        await served.register()
        yield served


async def convert(
    served: Served, source: bytes = RECORDING, files: Any = None, **texts: Any
) -> httpx.Response:
    fields = texts if "voice" in texts or files else {"voice": "Anna", **texts}
    fields = {name: text for name, text in fields.items() if text is not None}
    return await served.form(PATH, {"file": source, **(files or {})}, **fields)


def asked(served: Served) -> ConversionRequest:
    (request,) = served.engine.requests
    assert isinstance(request, ConversionRequest)
    return request


@pytest.mark.parametrize("audio_format", FORMATS)
async def test_a_recording_comes_back_in_every_format(served: Served, audio_format: str) -> None:
    response = await convert(served, response_format=audio_format)
    assert response.status_code == 200
    assert response.headers["content-type"] == MEDIA_TYPES[audio_format]  # type: ignore[index]
    if audio_format == "pcm":
        seconds = len(response.content) / 2 / 24_000
    else:
        seconds = len(decode(response.content, sample_rate_hz=24_000)) / 24_000
    assert 0 <= seconds - 2.0 < 0.1
    assert served.seconds == [(pytest.approx(2.0), audio_format)]


async def test_a_recording_comes_back_at_another_rate_and_with_its_length(served: Served) -> None:
    response = await convert(served, response_format="wav", sample_rate="16000", stream="false")
    data = response.content
    assert int.from_bytes(data[24:28], "little") == 16_000
    assert int.from_bytes(data[40:44], "little") == len(data) - 44
    refused = await convert(served, sample_rate="16001")
    assert fault(refused) == (400, "sample_rate", "invalid_value")


async def test_all_fields_reach_the_engine(served: Served) -> None:
    source = recording(1.5, 16_000)
    response = await convert(
        served, source, model="tts-1", voice="nova", speed="2", seed="-7", stream="false"
    )
    assert response.status_code == 200
    request = asked(served)
    assert (request.samples.size, request.sample_rate_hz) == (24_000, 16_000)
    assert (request.speed, request.seed, request.one_pass) == (2.0, -7, True)
    assert request.reference.id is not None


async def test_streaming_is_the_default(served: Served) -> None:
    await convert(served)
    assert not asked(served).one_pass


async def test_events_count_the_recording_as_it_counts_audio(served: Served) -> None:
    plain = await convert(served, response_format="wav")
    response = await convert(served, response_format="wav", stream_format="sse")
    assert response.headers["content-type"] == "text/event-stream"
    events = [json.loads(part[6:]) for part in response.text.split("\n\n") if part]
    assert b"".join(base64.b64decode(e["audio"]) for e in events[:-1]) == plain.content
    assert events[-1] == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 40, "output_tokens": 40, "total_tokens": 80},
    }


async def test_another_recording_is_the_voice_with_a_consent(served: Served) -> None:
    consent = (await served.consent()).json()["id"]
    other = {"ref_audio": recording(3)}
    assert (await convert(served, files=other, consent=consent)).status_code == 200
    assert asked(served).reference.id is None
    assert asked(served).reference.samples.size == 72_000
    response = await convert(served, files=other, model="tts-1")
    assert fault(response) == (400, "consent", "consent_required")
    response = await convert(served, files=other, consent=NOWHERE)
    assert fault(response) == (404, "consent", "consent_not_found")


@pytest.mark.parametrize(
    ("texts", "files", "refused"),
    [
        ({"voice": None}, {}, (400, "voice", "missing_required_parameter")),
        ({"voice": "nobody"}, {}, (404, "voice", "voice_not_found")),
        ({"voice": "echo"}, {}, (400, "voice", "unsupported_voice")),
        ({"voice": "Anna", "consent": NOWHERE}, {}, (400, "consent", "invalid_value")),
        ({"voice": "Anna"}, {"ref_audio": RECORDING}, (400, "voice", "invalid_value")),
        ({"model": "gpt-9"}, {}, (404, "model", "model_not_found")),
        ({"speed": "5"}, {}, (400, "speed", "decimal_above_max_value")),
        ({"speed": "nan"}, {}, (400, "speed", "invalid_value")),
        ({"speed": "quick"}, {}, (400, "speed", "invalid_type")),
        ({"seed": "1.5"}, {}, (400, "seed", "invalid_type")),
        ({"seed": str(2**63)}, {}, (400, "seed", "invalid_value")),
        ({"stream": "perhaps"}, {}, (400, "stream", "invalid_type")),
        ({"stream_format": "ws"}, {}, (400, "stream_format", "invalid_value")),
        ({"response_format": "ogg"}, {}, (400, "response_format", "invalid_value")),
        ({"vioce": "hello"}, {}, (400, "vioce", "unknown_parameter")),
        ({}, {"file": b""}, (400, "file", "invalid_audio")),
        ({}, {"file": b"no sound"}, (400, "file", "invalid_audio")),
        ({}, {"file": recording(31, 16_000)}, (413, "file", "audio_too_long")),
        ({}, {"file": b"a" * (25 << 20) + b"a"}, (413, "file", "audio_too_large")),
    ],
)
async def test_what_cannot_be_converted_is_refused_before_any_audio(
    served: Served, texts: Any, files: Any, refused: Any
) -> None:
    fields = {"voice": "Anna", **texts}
    fields = {name: text for name, text in fields.items() if text is not None}
    response = await served.form(PATH, {"file": RECORDING, **files}, **fields)
    assert fault(response) == refused
    assert served.engine.requests == []
    assert served.seconds == []


async def test_a_form_without_a_file_is_refused(served: Served) -> None:
    response = await served.form(PATH, {}, voice="Anna")
    assert fault(response) == (400, "file", "missing_required_parameter")


async def test_json_is_415(served: Served) -> None:
    response = await served.client.post(PATH, json={"voice": "Anna"})
    assert fault(response) == (415, None, "unsupported_content_type")


async def test_thirty_seconds_and_a_codecs_padding_are_converted(served: Served) -> None:
    assert (await convert(served, recording(30.05, 16_000))).status_code == 200
    assert asked(served).samples.size == 30 * 16_000


async def test_an_engine_that_converts_nothing_is_400(served: Served) -> None:
    without(served.engine, Capability.CONVERSION)
    assert fault(await convert(served)) == (400, "file", "unsupported_parameter")


async def test_an_engine_that_is_not_ready_is_503(served: Served) -> None:
    await served.engine.close()
    assert fault(await convert(served))[0] == 503


@pytest.mark.parametrize(("made", "status"), [(0, 500), (3, None)])
async def test_a_failing_engine_answers_500_or_breaks_the_answer_off(
    served: Served, monkeypatch: pytest.MonkeyPatch, made: int, status: int | None
) -> None:
    frame, count = served.engine._frame, 0

    async def failing(_character: str, speed: float) -> Any:
        nonlocal count
        count += 1
        return await frame("x" if count > made else "c", speed)

    monkeypatch.setattr(served.engine, "_frame", failing)
    if status is None:
        with pytest.raises(EngineError):
            await convert(served)
    else:
        assert fault(await convert(served)) == (status, None, "engine_failed")
    assert served.engine.active == 0


async def test_a_client_that_hangs_up_stops_the_conversion(served: Served) -> None:
    served.engine.delay_s = 30.0
    request = served.client.build_request(
        "POST", PATH, files={"file": ("a.wav", RECORDING, "audio/wav")}, data={"voice": "Anna"}
    )
    body = [{"type": "http.request", "body": request.read(), "more_body": False}]
    gone = asyncio.Event()
    sent: list[Any] = []

    async def receive() -> Any:
        if body:
            return body.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(k.lower(), v) for k, v in request.headers.raw]
    asked = {"type": "http", "method": "POST", "path": PATH, "headers": headers}
    scope = {**asked, "bentovox.route": PATH}
    running = asyncio.create_task(served.app(scope, receive, send))
    async with asyncio.timeout(10):
        while not served.engine.active:  # noqa: ASYNC110  the engine has no event for this
            await asyncio.sleep(0)
    gone.set()
    async with asyncio.timeout(10):
        with pytest.raises(ClientGoneError):
            await running
    assert served.engine.active == 0
    assert sent == []
