"""Upstream's real code behind the speech role's paths: OpenAI's SDK with tiny models."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import openai
import pytest

from services.audio.encode import to_wav
from services.audio.pcm import duration_s
from services.speech.voices import VoiceStore
from tests.cosyvoice.speaking import SHORT, TRANSCRIPT, sound
from tests.decoding import decode
from tests.speech_app import BODY, Served, fault, recording, shelled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Serving = Callable[..., Served]

FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")
VOICES, CONSENTS = "/v1/audio/voices", "/v1/audio/voice_consents"
CONVERSION = "/v1/audio/voice-conversion"
PROMPT = to_wav(sound(1, 3.0), 24_000)


def data_url(data: bytes) -> str:
    return f"data:audio/wav;base64,{base64.b64encode(data).decode()}"


@pytest.fixture
def store(tmp_path: Path) -> VoiceStore:
    return VoiceStore(tmp_path / "store")


@pytest.fixture
async def serving(engine_of: Callable[..., Any], store: VoiceStore) -> AsyncIterator[Serving]:
    """Return `serving(family)`: the paths of the service with that model."""
    made: list[Served] = []

    def served(family: int = 2, **rules: Any) -> Served:
        made.append(Served(engine_of(family), store, **rules))
        return made[-1]

    yield served
    for each in made:
        await each.client.aclose()


async def registered(served: Served, **texts: Any) -> dict[str, Any]:
    consent = (await served.consent()).json()["id"]
    fields = {"name": "Anna", "consent": consent, "text": TRANSCRIPT, **texts}
    response = await served.form(VOICES, {"audio_sample": PROMPT}, **fields)
    assert response.status_code == 200, response.text
    voice: dict[str, Any] = response.json()
    return voice


@pytest.mark.parametrize("family", [2, 3])
async def test_every_format_holds_the_same_speech(
    serving: Serving, serve: Callable[..., Awaitable[str]], family: int
) -> None:
    served = serving(family)
    voice = (await registered(served))["id"]
    url = await serve(shelled(served.app))
    lasts = {}
    async with openai.AsyncOpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0) as client:
        for name in FORMATS:
            answer = await client.audio.speech.create(
                model="tts-1",
                voice=voice,
                input=SHORT,
                response_format=name,  # type: ignore[arg-type]
                extra_body={"seed": 1},
            )
            data = await answer.aread()
            if name == "pcm":
                data = to_wav(np.frombuffer(data, "<i2").astype(np.float32) / 32768, 24_000)
            samples = decode(data, sample_rate_hz=24_000)
            assert np.abs(samples).max() > 0.05
            lasts[name] = duration_s(samples.size, 24_000)

    assert lasts["pcm"] > 0.3
    for lasting in lasts.values():
        assert lasting == pytest.approx(lasts["pcm"], abs=0.12)  # lossy ones pad


async def test_speech_comes_as_events(serving: Serving) -> None:
    served = serving(2)
    voice = (await registered(served))["id"]
    asked = {"input": SHORT, "voice": voice, "seed": 1, "response_format": "pcm"}
    whole = (await served.speech(**asked)).content
    response = await served.speech(**asked, stream_format="sse")

    assert response.headers["content-type"].startswith("text/event-stream")
    events = [
        json.loads(line.removeprefix("data: "))
        for line in response.text.splitlines()
        if '"speech.audio.delta"' in line
    ]
    assert '"speech.audio.done"' in response.text
    assert b"".join(base64.b64decode(event["audio"]) for event in events) == whole


@pytest.mark.parametrize("family", [2, 3])
async def test_a_voice_is_registered_spoken_with_and_gone_when_it_is_deleted(
    serving: Serving, tmp_path: Path, family: int
) -> None:
    served = serving(family)
    voice = await registered(served)
    features = list((tmp_path / "store").rglob("*.safetensors"))
    assert len(features) == 1

    by_id = await served.speech(input=SHORT, voice={"id": voice["id"]}, seed=1)
    by_name = await served.speech(input=SHORT, voice="Anna", seed=1)
    assert by_id.status_code == 200
    assert by_id.content == by_name.content

    converted = await served.form(
        CONVERSION, {"file": recording(1.0)}, voice="Anna", response_format="wav"
    )
    samples = decode(converted.content, sample_rate_hz=24_000)
    assert duration_s(samples.size, 24_000) == pytest.approx(1.0, abs=0.1)

    assert (await served.client.delete(f"{VOICES}/{voice['id']}")).status_code == 200
    assert list((tmp_path / "store").rglob(f"*{voice['id']}*")) == []
    assert not features[0].exists()
    after = await served.speech(input=SHORT, voice={"id": voice["id"]})
    assert fault(after) == (404, "voice", "voice_not_found")


async def test_a_registered_voice_speaks_the_same_after_a_restart(
    serving: Serving, store: VoiceStore, tmp_path: Path
) -> None:
    served = serving(2)
    voice = await registered(served)
    before = await served.speech(input=SHORT, voice="Anna", seed=1, response_format="pcm")
    served.engine.forget(voice["id"])
    store.__init__(tmp_path / "store")  # type: ignore[misc]  # as a new process opens it
    after = await serving(2).speech(input=SHORT, voice="Anna", seed=1, response_format="pcm")
    assert before.content == after.content


async def test_a_recording_with_the_request_is_spoken_like(serving: Serving) -> None:
    served = serving(2)
    consent = (await served.consent()).json()["id"]
    asked = {"input": SHORT, "voice": None, "seed": 1, "response_format": "pcm"}
    asked |= {"consent": consent, "ref_audio": data_url(PROMPT)}
    told = await served.speech(**asked, ref_text=TRANSCRIPT)
    untold = await served.speech(**asked)
    assert told.status_code == untold.status_code == 200
    assert told.content != untold.content


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"input": ""}, (400, "input", "string_below_min_length")),
        ({"input": "   "}, (400, "input", "blank_input")),
        ({"input": "...!? —"}, (400, "input", "blank_input")),
        ({"input": "a" * 5000}, (400, "input", "string_above_max_length")),
        ({"input": "Hi<|endofprompt|>"}, (400, "input", "control_token")),
        ({"instructions": "<|im_end|>"}, (400, "instructions", "control_token")),
        ({"voice": "nobody"}, (404, "voice", "voice_not_found")),
        ({"speed": 0.2}, (400, "speed", "decimal_below_min_value")),
        ({"speed": 4.5}, (400, "speed", "decimal_above_max_value")),
        ({"language": "tlh"}, (400, "language", "unsupported_language")),
        ({"model": "tts-9"}, (404, "model", "model_not_found")),
        ({"seed": "x"}, (400, "seed", "invalid_type")),
        ({"ref_audio": data_url(PROMPT)}, (400, "consent", "consent_required")),
    ],
)
async def test_bad_input_is_refused_clearly(
    serving: Serving, fields: dict[str, Any], refused: tuple[int, str, str]
) -> None:
    served = serving(2)
    await registered(served)
    asked = {**BODY, "voice": "Anna", **fields}
    if "ref_audio" in fields:
        del asked["voice"]
    assert fault(await served.client.post("/v1/audio/speech", json=asked)) == refused


@pytest.mark.parametrize(
    ("sample", "refused"),
    [
        (recording(31.0, 16_000), (413, "audio_sample", "audio_too_long")),
        (recording(0.5), (400, "audio_sample", "audio_too_short")),
        (recording(3.0, 8_000), (400, "audio_sample", "unsupported_sample_rate")),
        (PROMPT[:60], (400, "audio_sample", "invalid_audio")),
        (b"no audio at all", (400, "audio_sample", "invalid_audio")),
        (b"", (400, "audio_sample", "invalid_audio")),
    ],
)
async def test_a_prompt_that_will_not_do_is_refused_and_not_kept(
    serving: Serving, store: VoiceStore, sample: bytes, refused: tuple[int, str, str]
) -> None:
    served = serving(2)
    consent = (await served.consent()).json()["id"]
    response = await served.form(VOICES, {"audio_sample": sample}, name="Ben", consent=consent)
    assert fault(response) == refused
    assert store.voices() == []


async def test_cloning_without_a_consent_is_refused(serving: Serving) -> None:
    served = serving(2)
    response = await served.form(VOICES, {"audio_sample": PROMPT}, name="Ben")
    assert fault(response) == (400, "consent", "consent_required")


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"voice": "alloy"}, (404, "voice", "voice_not_found")),
        ({"language": "de"}, (400, "language", "unsupported_language")),
    ],
)
async def test_what_the_model_lacks_is_refused_clearly(
    serving: Serving, fields: dict[str, Any], refused: tuple[int, str, str]
) -> None:
    served = serving(2)
    voice = (await registered(served))["id"]
    assert fault(await served.speech(**{"voice": voice, **fields})) == refused
