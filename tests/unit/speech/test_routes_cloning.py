"""Speaking with a registered voice, or with that of a recording in the request."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from services.speech.engines.protocol import Capability, SynthesisRequest
from services.speech.voices import VoiceStore
from tests.fakes.speech_engine import FakeEngine
from tests.speech_app import BODY, RECORDING, Served, fault, recording, without

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


NOWHERE = "cons_" + "0" * 32


def data_url(data: bytes, kind: str = "audio/wav") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


ANNA = data_url(RECORDING)


@pytest.fixture
async def serving(tmp_path: Path) -> AsyncIterator[Callable[..., Served]]:
    made: list[Served] = []

    def serve(ref_audio: str = "consent", **aliases: str) -> Served:
        store = VoiceStore(tmp_path / "store")
        engine = FakeEngine()
        engine.ready = True
        made.append(Served(engine, store, aliases=aliases, ref_audio=ref_audio))
        return made[-1]

    yield serve
    for served in made:
        await served.client.aclose()


def asked(served: Served) -> SynthesisRequest:
    (request,) = served.engine.requests
    assert isinstance(request, SynthesisRequest)
    return request


@pytest.mark.parametrize("by", ["id", "name", "alias of the id", "alias of the name"])
async def test_a_registered_voice_speaks_by_its_id_its_name_or_an_alias(
    serving: Callable[..., Served], by: str
) -> None:
    made = (await serving().register(text="Hello.")).json()
    served = serving(alloy=made["id"], nova="Anna")
    names = {"id": {"id": made["id"]}, "name": "Anna", "alias of the id": "alloy"}
    assert (await served.speech(voice=names.get(by, "nova"))).status_code == 200
    request = asked(served)
    assert request.voice is None
    assert request.reference is not None
    assert (request.reference.id, request.reference.text) == (made["id"], "Hello.")
    assert request.reference.samples.size == 48_000


async def test_an_alias_may_stand_for_one_of_the_engines_voices(
    serving: Callable[..., Served],
) -> None:
    served = serving(narrator="echo")
    assert (await served.speech(voice="narrator")).status_code == 200
    assert (asked(served).voice, asked(served).reference) == ("echo", None)


async def test_a_deleted_voice_is_404(serving: Callable[..., Served]) -> None:
    served = serving(nova="Anna")
    made = (await served.register()).json()
    await served.client.delete(f"/v1/audio/voices/{made['id']}")
    for name in (made["id"], "Anna", "nova"):
        assert fault(await served.speech(voice=name)) == (404, "voice", "voice_not_found")
    assert served.engine.requests == []


async def test_an_engine_without_cloning_knows_no_registered_voice(
    serving: Callable[..., Served],
) -> None:
    served = serving()
    await served.register()
    without(served.engine, Capability.REFERENCE, Capability.CONVERSION)
    assert fault(await served.speech(voice="Anna")) == (404, "voice", "voice_not_found")


async def test_a_recording_speaks_with_a_consent_and_needs_no_voice(
    serving: Callable[..., Served],
) -> None:
    served = serving()
    consent = (await served.consent()).json()["id"]
    body = {"model": "tts-1", "input": "hi", "ref_audio": ANNA, "ref_text": "Ah.", "seed": 1}
    response = await served.client.post("/v1/audio/speech", json={**body, "consent": consent})
    assert response.status_code == 200
    request = asked(served)
    assert request.voice is None
    assert request.reference is not None
    assert (request.reference.id, request.reference.text) == (None, "Ah.")
    assert request.reference.sample_rate_hz == 24_000
    assert np.abs(request.reference.samples).max() == pytest.approx(0.3, abs=0.01)


async def test_a_recording_goes_before_a_voice_that_the_sdk_must_send(
    serving: Callable[..., Served],
) -> None:
    served = serving("open")
    assert (await served.speech(voice="whatever", ref_audio=ANNA)).status_code == 200
    assert asked(served).voice is None


async def test_a_recording_without_consent_is_refused_unless_the_server_is_open(
    serving: Callable[..., Served],
) -> None:
    served = serving()
    assert fault(await served.speech(ref_audio=ANNA)) == (400, "consent", "consent_required")
    response = await served.speech(ref_audio=ANNA, consent=NOWHERE)
    assert fault(response) == (404, "consent", "consent_not_found")
    response = await serving("open").speech(ref_audio=ANNA, consent=NOWHERE)
    assert fault(response) == (404, "consent", "consent_not_found")
    assert served.engine.requests == []
    assert (await serving("open").speech(ref_audio=ANNA)).status_code == 200


async def test_recordings_can_be_turned_off(serving: Callable[..., Served]) -> None:
    served = serving("off")
    consent = (await served.consent()).json()["id"]
    small = data_url(b"not even looked at")
    response = await served.speech(ref_audio=small, consent=consent)
    assert fault(response) == (400, "ref_audio", "unsupported_parameter")
    assert fault(await served.speech(ref_audio="a" * 200_000))[0] == 413


async def test_an_engine_without_cloning_takes_no_recording(
    serving: Callable[..., Served],
) -> None:
    served = serving("open")
    without(served.engine, Capability.REFERENCE)
    response = await served.speech(ref_audio="data:x")
    assert fault(response) == (400, "ref_audio", "unsupported_parameter")


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"ref_audio": ""}, (400, "ref_audio", "string_below_min_length")),
        ({"ref_audio": 1}, (400, "ref_audio", "invalid_type")),
        ({"ref_audio": "a" * (14 << 20) + "a"}, (400, "ref_audio", "string_above_max_length")),
        ({"ref_audio": "anna.wav"}, (400, "ref_audio", "url_not_allowed")),
        ({"ref_audio": "file:///etc/passwd"}, (400, "ref_audio", "url_not_allowed")),
        ({"ref_audio": "http://example.com/a.wav"}, (400, "ref_audio", "url_not_allowed")),
        ({"ref_audio": "https://127.0.0.1/a.wav"}, (400, "ref_audio", "url_not_allowed")),
        ({"ref_audio": "https://[::1]/a.wav"}, (400, "ref_audio", "url_not_allowed")),
        ({"ref_audio": "data:audio/wav,abc"}, (400, "ref_audio", "invalid_data_url")),
        ({"ref_audio": data_url(RECORDING, "text/plain")}, (400, "ref_audio", "invalid_data_url")),
        ({"ref_audio": data_url(b"no sound")}, (400, "ref_audio", "invalid_audio")),
        ({"ref_audio": data_url(recording(0.5))}, (400, "ref_audio", "audio_too_short")),
        ({"ref_audio": data_url(recording(31))}, (413, "ref_audio", "audio_too_long")),
        (
            {"ref_audio": data_url(recording(2, 8000))},
            (400, "ref_audio", "unsupported_sample_rate"),
        ),
        ({"ref_audio": data_url(recording(2, level=0))}, (400, "ref_audio", "silent_audio")),
        ({"ref_audio": ANNA, "ref_text": "a" * 1025}, (400, "ref_text", "string_above_max_length")),
        ({"ref_audio": ANNA, "input": "..."}, (400, "input", "blank_input")),
        ({"ref_audio": ANNA, "speed": 9}, (400, "speed", "decimal_above_max_value")),
        ({"ref_text": "alone"}, (400, "ref_text", "invalid_value")),
        ({"consent": NOWHERE}, (400, "consent", "invalid_value")),
    ],
)
async def test_a_recording_that_will_not_do_is_refused_before_any_audio(
    serving: Callable[..., Served], fields: dict[str, Any], refused: Any
) -> None:
    served = serving("open")
    assert fault(await served.speech(**fields)) == refused
    assert served.engine.requests == []


async def test_a_recording_of_ten_mebibytes_is_not_too_large(
    serving: Callable[..., Served],
) -> None:
    # 30 s of float32 at 48 kHz is 5.8 MB: a chunk that no reader knows fills it up.
    sound = recording(30, 48_000)
    filled = sound + b"junk" + (10 * 1024 * 1024 - len(sound) - 8).to_bytes(4, "little")
    filled = filled.ljust(10 * 1024 * 1024, b"\0")
    served = serving("open")
    response = await served.speech(ref_audio=data_url(filled), ref_text="\u20ac" * 1024)
    assert response.status_code == 200


async def test_the_longest_body_without_a_recording_stays_small(
    serving: Callable[..., Served],
) -> None:
    served = serving()
    without(served.engine, Capability.REFERENCE)
    response = await served.client.post(
        "/v1/audio/speech", json={**BODY, "ref_audio": "a" * 140_000}
    )
    assert fault(response)[0] == 413
