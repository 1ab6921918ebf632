from __future__ import annotations

import asyncio
import base64
import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from services.audio.formats import MEDIA_TYPES
from services.errors import ConfigurationError, EngineError
from services.openai.body import ClientGoneError
from services.openai.paths import MODELS, ROUTES
from services.openai.reading import watch
from services.settings.sections import SPEECH_MODELS
from services.speech.engines.protocol import Capability, SynthesisRequest
from services.speech.routes import handlers_of
from services.speech.speakers import check_aliases
from tests.decoding import decode
from tests.fakes.speech_engine import CHARACTER_S, FakeEngine
from tests.sounds import FORMATS
from tests.speech_app import (
    BODY,
    Served,
    app_of,
    fault,
    models_of,
    speakers_of,
    untold,
    without,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx
    import numpy as np


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    served = Served(FakeEngine())
    await served.engine.start()
    async with served.client:
        yield served


@pytest.mark.parametrize("audio_format", FORMATS)
async def test_every_format_is_served_with_its_type_and_duration(
    served: Served, audio_format: str
) -> None:
    response = await served.speech(response_format=audio_format)
    assert response.status_code == 200
    assert response.headers["content-type"] == MEDIA_TYPES[audio_format]  # type: ignore[index]
    expected_s = len(BODY["input"]) * CHARACTER_S
    if audio_format == "pcm":
        seconds = len(response.content) / 2 / 24_000
    else:
        seconds = len(decode(response.content, sample_rate_hz=24_000)) / 24_000
    assert 0 <= seconds - expected_s < 0.1
    assert served.seconds == [(pytest.approx(expected_s), audio_format)]


async def test_a_wav_that_is_not_streamed_says_how_long_it_is(served: Served) -> None:
    data = (await served.speech(response_format="wav", stream=False)).content
    assert struct.unpack("<I", data[4:8]) == (len(data) - 8,)
    assert struct.unpack("<I", data[40:44]) == (len(data) - 44,)
    streamed = (await served.speech(response_format="wav")).content
    assert streamed[40:44] == b"\xff" * 4
    assert streamed[44:] == data[44:]


async def test_a_telephone_gets_its_format_and_its_rate(served: Served) -> None:
    samples = round(8000 * len(BODY["input"]) * CHARACTER_S)
    for audio_format, kind in (("ulaw", "audio/pcmu"), ("alaw", "audio/pcma")):
        response = await served.speech(response_format=audio_format)
        assert response.headers["content-type"] == kind
        assert abs(len(response.content) - samples) <= 1
    response = await served.speech(response_format="pcm", sample_rate=8000)
    assert response.headers["content-type"] == "audio/pcm;rate=8000"
    assert abs(len(response.content) - 2 * samples) <= 2


async def test_mp3_is_the_default(served: Served) -> None:
    assert (await served.speech()).headers["content-type"] == "audio/mpeg"


def events(response: httpx.Response) -> list[dict[str, Any]]:
    parts = response.text.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") for part in parts)
    return [json.loads(part.removeprefix("data: ")) for part in parts]


async def test_events_carry_the_same_bytes_and_usage(served: Served) -> None:
    plain = await served.speech(response_format="wav")
    response = await served.speech(response_format="wav", stream_format="sse")
    assert response.headers["content-type"] == "text/event-stream"
    *deltas, done = events(response)
    assert {delta["type"] for delta in deltas} == {"speech.audio.delta"}
    assert b"".join(base64.b64decode(delta["audio"]) for delta in deltas) == plain.content
    assert done == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 11, "output_tokens": 22, "total_tokens": 33},
    }


async def test_all_fields_reach_the_engine(served: Served) -> None:
    await served.speech(
        voice={"id": "echo"}, speed=2.0, instructions="softly", language="fr", seed=7, stream=False
    )
    request = served.engine.requests[0]
    assert isinstance(request, SynthesisRequest)
    assert request.one_pass
    assert (request.text, request.voice, request.speed) == ("hello there", "echo", 2.0)
    assert (request.instructions, request.language, request.seed) == ("softly", "fr", 7)


async def test_unknown_voice_is_404_before_any_audio(served: Served) -> None:
    assert fault(await served.speech(voice="nobody")) == (404, "voice", "voice_not_found")
    assert served.engine.requests == []


async def test_instructions_that_the_engine_cannot_follow_are_ignored_and_named(
    served: Served,
) -> None:
    without(served.engine, Capability.INSTRUCTIONS)
    ignored = watch(strict=False)
    response = await served.speech(instructions="softly")
    assert response.status_code == 200
    assert ignored.names == ["instructions"]
    watch(strict=True)
    assert fault(await served.speech(instructions="softly"))[:2] == (400, "instructions")


@pytest.mark.parametrize(
    ("given", "tag"), [("English", "en"), ("en_US", "en-US"), ("auto", None), ("de", "de")]
)
async def test_a_language_is_given_by_name_or_by_tag(
    served: Served, given: str, tag: str | None
) -> None:
    assert (await served.speech(language=given)).status_code == 200
    request = served.engine.requests[0]
    assert isinstance(request, SynthesisRequest)
    assert request.language == tag


async def test_a_long_name_is_not_echoed_whole(served: Served) -> None:
    for fields in ({"voice": "x" * 256}, {"model": "x" * 256}):
        message = (await served.speech(**fields)).json()["error"]["message"]
        assert "x" * 64 in message
        assert "x" * 65 not in message


@pytest.mark.parametrize("path", ["/v1/audio/speech", "/v1/models/gpt-9"])
async def test_unknown_model_is_404(served: Served, path: str) -> None:
    if path.endswith("speech"):
        response = await served.speech(model="gpt-9")
    else:
        response = await served.client.get(path)
    assert "BENTOVOX_SPEECH__MODELS" in response.json()["error"]["message"]
    assert fault(response) == (404, "model", "model_not_found")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"imput": "a"}, "imput", "unknown_parameter"),
        ({"voice": None}, "voice", "missing_required_parameter"),
        ({"stream": "no"}, "stream", "invalid_type"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": ""}, "input", "string_below_min_length"),
        ({"input": "  \n"}, "input", "blank_input"),
        ({"input": "...!"}, "input", "blank_input"),
        ({"input": "a" * 4097}, "input", "string_above_max_length"),
        ({"instructions": "a" * 4097}, "instructions", "string_above_max_length"),
        ({"voice": ""}, "voice", "string_below_min_length"),
        ({"voice": {"id": "alloy", "ids": 1}}, "voice.ids", "unknown_parameter"),
        ({"response_format": "ogg"}, "response_format", "invalid_value"),
        ({"sample_rate": 11_025}, "sample_rate", "invalid_value"),
        ({"sample_rate": "8000"}, "sample_rate", "invalid_value"),
        ({"sample_rate": 44_100, "response_format": "opus"}, "sample_rate", "invalid_value"),
        ({"sample_rate": 16_000, "response_format": "ulaw"}, "sample_rate", "invalid_value"),
        ({"speed": 0.2}, "speed", "decimal_below_min_value"),
        ({"speed": 4.1}, "speed", "decimal_above_max_value"),
        ({"speed": "1"}, "speed", "invalid_type"),
        ({"stream_format": "ws"}, "stream_format", "invalid_value"),
        ({"seed": 1.5}, "seed", "invalid_type"),
        ({"seed": 2**63}, "seed", "invalid_value"),
    ],
)
async def test_a_bad_field_is_400_and_named(
    served: Served, fields: dict[str, Any], param: str, code: str
) -> None:
    assert fault(await served.speech(**fields)) == (400, param, code)
    assert served.engine.requests == []


@pytest.mark.parametrize("field", ["model", "input", "voice"])
async def test_a_missing_field_is_400_and_named(served: Served, field: str) -> None:
    body = {key: value for key, value in BODY.items() if key != field}
    response = await served.client.post("/v1/audio/speech", json=body)
    assert fault(response) == (400, field, "missing_required_parameter")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b'{"input": "\\ud800"}'])
async def test_malformed_json_is_400(served: Served, content: bytes) -> None:
    response = await served.client.post(
        "/v1/audio/speech", content=content, headers={"content-type": "application/json"}
    )
    assert fault(response) == (400, None, "invalid_json")


@pytest.mark.parametrize("content", [b"[]", b"1", b"null", b'"x"'])
async def test_json_that_is_no_object_is_400(served: Served, content: bytes) -> None:
    response = await served.client.post(
        "/v1/audio/speech", content=content, headers={"content-type": "application/json"}
    )
    assert fault(response) == (400, None, "invalid_type")


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", ""])
async def test_another_content_type_is_415(served: Served, kind: str) -> None:
    response = await served.client.post(
        "/v1/audio/speech", content=json.dumps(BODY), headers={"content-type": kind}
    )
    assert fault(response) == (415, None, "unsupported_content_type")


async def test_a_huge_body_is_413_and_a_recording_makes_it_larger(served: Served) -> None:
    assert fault(await served.speech(input="a" * 200_000))[0] == 400
    assert fault(await served.speech(input="a" * 15_000_000))[0] == 413
    without(served.engine, Capability.REFERENCE)
    assert fault(await served.speech(input="a" * 200_000))[0] == 413


async def test_the_longest_input_in_escapes_is_not_too_large(served: Served) -> None:
    body = json.dumps(
        {
            **BODY,
            "input": "x" + "\U0001f600" * 4095,
            "instructions": "é" * 4096,
            "speed": 4.0,
            "response_format": "pcm",
        }
    )
    async with served.client.stream(
        "POST", "/v1/audio/speech", content=body, headers={"content-type": "application/json"}
    ) as response:
        assert response.status_code == 200


async def test_other_methods_and_paths_are_405_and_404(served: Served) -> None:
    assert fault(await served.client.get("/v1/audio/speech"))[0] == 405
    assert fault(await served.client.post("/v1/models"))[0] == 405
    assert fault(await served.client.get("/v1/audio"))[0] == 404


async def test_an_engine_that_is_not_ready_is_503_with_retry_after(served: Served) -> None:
    await served.engine.close()
    response = await served.speech()
    assert fault(response)[0] == 503
    assert response.headers["retry-after"] == "1"


async def test_a_failure_before_the_first_frame_is_500_and_no_audio(served: Served) -> None:
    served.engine.fail_at = "h"
    assert fault(await served.speech()) == (500, None, "engine_failed")
    assert served.seconds == []


async def test_a_bug_in_the_engine_is_500_without_its_words(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_character: str, _speed: float) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(served.engine, "_frame", broken)
    response = await served.speech()
    assert fault(response) == (500, None, "engine_failed")
    assert "secret" not in response.text


async def test_a_failure_after_the_first_frame_breaks_the_answer_off(served: Served) -> None:
    served.engine.fail_at = "t"
    with pytest.raises(EngineError):
        await served.speech()
    assert served.seconds == [(pytest.approx(6 * CHARACTER_S), "mp3")]
    assert served.engine.active == 0


async def test_models_are_the_engines_own_and_openais(served: Served) -> None:
    listed = (await served.client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["fake", *SPEECH_MODELS]
    one = (await served.client.get("/v1/models/tts-1")).json()
    assert one in listed["data"]
    assert set(one) == {"id", "object", "created", "owned_by"}


async def test_models_that_speak_come_in_the_shape_that_open_webui_reads(served: Served) -> None:
    listed = (await served.client.get("/v1/audio/models")).json()
    assert [model["id"] for model in listed["models"]] == ["fake", *SPEECH_MODELS]
    assert all(model["name"] for model in listed["models"])
    assert listed["data"] == (await served.client.get("/v1/models")).json()["data"]


async def test_voices_come_in_every_shape_that_clients_read(served: Served) -> None:
    listed = (await served.client.get("/v1/audio/voices")).json()
    assert listed["object"] == "list"
    assert listed["voices"] == [{"id": "alloy", "name": "Alloy"}, {"id": "echo", "name": "Echo"}]
    assert [voice["id"] for voice in listed["data"]] == ["alloy", "echo"]
    assert (await served.client.get("/v1/audio/speech/voices")).json() == listed
    one = (await served.client.get("/v1/audio/voices/echo")).json()
    assert one == listed["data"][1]
    assert fault(await served.client.get("/v1/audio/voices/x")) == (404, "voice", "voice_not_found")


async def test_every_path_of_the_table_is_answered(served: Served) -> None:
    handlers = handlers_of(speakers_of(served.engine), models_of(served.engine), untold)
    assert handlers.keys() == {*ROUTES["speech"], *MODELS}
    for method, path in handlers:
        response = await served.client.request(method, path.replace("{}", "alloy"))
        assert response.status_code != 405
        assert response.json().get("error", {}).get("code") != "unknown_url"
        if method == "GET":
            head = await served.client.head(path.replace("{}", "alloy"))
            assert not head.content
            assert head.status_code == response.status_code


class Exchange:
    """A raw ASGI exchange, so that the test decides when the client hangs up."""

    def __init__(self, **fields: Any) -> None:
        self.hung_up = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        self.first = asyncio.Event()
        self._body: bytes | None = json.dumps({**BODY, **fields}).encode()
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/audio/speech",
            "bentovox.route": "/v1/audio/speech",
            "headers": [(b"content-type", b"application/json; charset=utf-8")],
        }

    async def receive(self) -> dict[str, Any]:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        self.first.set()


async def test_headers_wait_for_the_first_frame_and_bytes_do_not_wait_for_the_last() -> None:
    engine = FakeEngine()
    await engine.start()
    gates = [asyncio.Event() for _ in range(3)]
    made: list[str] = []
    frame = engine._frame

    async def gated(character: str, speed: float) -> np.ndarray:
        await gates[len(made)].wait()
        made.append(character)
        return await frame(character, speed)

    engine._frame = gated  # type: ignore[method-assign, assignment]
    exchange = Exchange(input="abc", response_format="pcm")
    running = asyncio.create_task(app_of(engine)(exchange.scope, exchange.receive, exchange.send))
    for _ in range(20):
        await asyncio.sleep(0)
    assert exchange.sent == []
    gates[0].set()
    async with asyncio.timeout(5):
        await exchange.first.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert [message["type"] for message in exchange.sent] == [
        "http.response.start",
        "http.response.body",
    ]
    assert len(exchange.sent[1]["body"]) == 4800
    assert made == ["a"]
    gates[1].set()
    gates[2].set()
    await running
    assert exchange.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


@pytest.mark.parametrize("when", ["before the first frame", "after the first frame"])
async def test_a_client_that_hangs_up_stops_the_engine(when: str) -> None:
    engine = FakeEngine(delay_s=30.0 if when.startswith("before") else 0.001)
    await engine.start()
    exchange = Exchange(input="a" * 4000)
    running = asyncio.create_task(app_of(engine)(exchange.scope, exchange.receive, exchange.send))
    if when.startswith("after"):
        await exchange.first.wait()
    else:
        while not engine.active:  # noqa: ASYNC110  the engine has no event for this
            await asyncio.sleep(0)
    exchange.hung_up.set()
    async with asyncio.timeout(0.5):
        with pytest.raises(ClientGoneError):
            await running
    assert engine.active == 0
    assert all(message.get("more_body", True) for message in exchange.sent)


async def test_a_client_that_hangs_up_in_its_request_gets_nothing() -> None:
    exchange = Exchange()
    exchange._body = None
    exchange.hung_up.set()
    with pytest.raises(ClientGoneError):
        await app_of(FakeEngine())(exchange.scope, exchange.receive, exchange.send)
    assert exchange.sent == []


async def test_a_name_of_the_operators_speaks_and_is_listed_with_what_it_stands_for() -> None:
    served = Served(FakeEngine(), aliases={"boss": "echo"})
    await served.engine.start()
    async with served.client:
        assert (await served.speech(voice="boss")).status_code == 200
        listed = (await served.client.get("/v1/audio/voices")).json()["data"]
    assert served.engine.requests[-1].voice == "echo"  # type: ignore[union-attr]
    assert [(voice["id"], voice["alias_of"]) for voice in listed][-1] == ("boss", "echo")
    assert listed[-1]["name"].startswith("boss (")


async def test_a_name_of_the_operators_is_known_in_any_case_like_the_engines_own() -> None:
    # A registered voice's name is exact, so where there are some, aliases are, too.
    engine = without(FakeEngine(), Capability.REFERENCE, Capability.CONVERSION)
    served = Served(engine, aliases={"Boss": "echo"})
    await served.engine.start()
    async with served.client:
        assert (await served.speech(voice="bOSS")).status_code == 200
        told = (await served.client.get("/v1/audio/voices/boss")).json()
        refused = await served.client.delete("/v1/audio/voices/BOSS")
    assert served.engine.requests[-1].voice == "echo"  # type: ignore[union-attr]
    assert (told["id"], told["alias_of"]) == ("boss", "echo")
    assert fault(refused) == (400, "voice", "voice_not_deletable")


def test_a_name_for_no_voice_is_a_configuration_error_unless_one_may_be_registered() -> None:
    engine = FakeEngine()
    check_aliases(engine, {"boss": "echo"})
    with pytest.raises(ConfigurationError, match="'boss' stands for"):
        check_aliases(engine, {"boss": "nobody"})
    engine._voices = ()
    check_aliases(engine, {"boss": "nobody"})
