"""OpenAI's Python SDK with the gateway and the speech role: voices and consents."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import openai
import pytest

from services.speech.engines.protocol import Capability
from tests.decoding import decode
from tests.speech_app import RECORDING, recording, without

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from openai import OpenAI

pytestmark = pytest.mark.skipif(
    not hasattr(openai.resources.Audio, "voice_consents"),
    reason=f"openai {openai.__version__} knows no voices",
)

WAV: Any = ("anna.wav", RECORDING, "audio/wav")


@pytest.fixture
def door(open_stack: Callable[..., Any]) -> Iterator[Any]:
    with open_stack() as served:
        yield served


@pytest.fixture
def client(door: Any) -> Iterator[OpenAI]:
    with openai.OpenAI(base_url=f"{door.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def consent(client: OpenAI) -> str:
    made = client.audio.voice_consents.create(language="en-GB", name="Anna's", recording=WAV)
    return made.id


def refused(error: openai.APIStatusError) -> tuple[int, str | None, str | None]:
    body = error.response.json()
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return error.status_code, error.param, error.code


def test_a_consent_is_created_retrieved_renamed_listed_and_deleted(client: OpenAI) -> None:
    consents = client.audio.voice_consents
    made = consents.create(language="en-GB", name="Anna's", recording=WAV)
    assert (made.object, made.language) == ("audio.voice_consent", "en-GB")
    assert consents.retrieve(made.id) == made
    renamed = consents.update(made.id, name="Anne's")
    assert (renamed.id, renamed.name) == (made.id, "Anne's")
    assert list(consents.list()) == [renamed]
    gone = consents.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "audio.voice_consent", True)
    with pytest.raises(openai.NotFoundError) as caught:
        consents.retrieve(made.id)
    assert refused(caught.value)[2] == "consent_not_found"


def test_the_sdk_walks_through_the_pages_of_consents(client: OpenAI) -> None:
    made = [
        client.audio.voice_consents.create(language="en", name=f"consent {n}", recording=WAV).id
        for n in range(5)
    ]
    listed = [consent.id for consent in client.audio.voice_consents.list(limit=2)]
    assert sorted(listed) == sorted(made)
    after = client.audio.voice_consents.list(limit=2, after=listed[1])
    assert [consent.id for consent in after.data] == listed[2:4]


def test_a_voice_is_created_speaks_and_is_deleted(door: Any, client: OpenAI, consent: str) -> None:
    voice = client.audio.voices.create(
        audio_sample=WAV, consent=consent, name="Anna", extra_body={"text": "Hello there."}
    )
    assert (voice.object, voice.type, voice.name) == ("audio.voice", "audio_sample", "Anna")
    for named in ({"id": voice.id}, "Anna"):
        made = client.audio.speech.create(
            model="tts-1",
            voice=named,  # type: ignore[arg-type]
            input="hello there",
            response_format="wav",
        )
        assert len(decode(made.content, sample_rate_hz=24_000)) == 26_400
        reference = door.engine.requests[-1].reference
        assert (reference.id, reference.text) == (voice.id, "Hello there.")
    gone = client.audio.voices.delete(voice.id)
    assert (gone.id, gone.object, gone.deleted) == (voice.id, "audio.voice.deleted", True)
    with pytest.raises(openai.NotFoundError) as caught:
        client.audio.speech.create(model="tts-1", voice={"id": voice.id}, input="hello")
    assert refused(caught.value) == (404, "voice", "voice_not_found")
    with pytest.raises(openai.NotFoundError):
        client.audio.voices.delete(voice.id)


def test_a_file_on_disk_is_uploaded(client: OpenAI, consent: str, tmp_path: Path) -> None:
    path = tmp_path / "\u00e4nne.wav"
    path.write_bytes(recording(29.5, 48_000))  # 5.7 MB
    voice = client.audio.voices.create(audio_sample=path, consent=consent, name="Änne")
    assert voice.name == "Änne"


def test_a_recording_goes_with_the_request(door: Any, client: OpenAI, consent: str) -> None:
    url = "data:audio/wav;base64," + base64.b64encode(recording(29.5, 48_000)).decode()
    made = client.audio.speech.create(
        model="tts-1",
        voice="alloy",
        input="hi",
        response_format="pcm",
        extra_body={"ref_audio": url, "ref_text": "Ah.", "consent": consent, "stream": False},
    )
    assert len(made.content) == 9600
    request = door.engine.requests[-1]
    assert request.one_pass
    assert request.reference.text == "Ah."


def test_a_recording_is_converted(client: OpenAI, consent: str) -> None:
    client.audio.voices.create(audio_sample=WAV, consent=consent, name="Anna")
    made = client.post(
        "/audio/voice-conversion",
        cast_to=bytes,
        body={"voice": "Anna", "response_format": "pcm"},
        files={"file": ("a.wav", recording(29.5, 48_000), "audio/wav")},
        options={"headers": {"Content-Type": "multipart/form-data"}},
    )
    assert len(made) == 29.5 * 2 * 24_000


def test_refusals_are_the_sdks_errors_and_keep_nothing(
    door: Any, client: OpenAI, consent: str
) -> None:
    voices, consents = client.audio.voices, client.audio.voice_consents

    def voice(**fields: Any) -> Any:
        return voices.create(**{"audio_sample": WAV, "consent": consent, "name": "Anna", **fields})

    for call, error in (
        (lambda: voice(consent="cons_1234"), (404, "consent", "consent_not_found")),
        (lambda: voice(name=""), (400, "name", "missing_required_parameter")),
        (lambda: voice(audio_sample=b"no sound"), (400, "audio_sample", "invalid_audio")),
        (
            lambda: voice(audio_sample=recording(31)),
            (413, "audio_sample", "audio_too_long"),
        ),
        (
            lambda: voices.create(name="Anna", prompt="deep", type="prompt"),
            (400, "type", "unsupported_voice_type"),
        ),
        (
            lambda: consents.create(language="?", name="Anna's", recording=WAV),
            (400, "language", "invalid_value"),
        ),
        (lambda: voices.delete("alloy"), (400, "voice", "voice_not_deletable")),
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            call()
        assert refused(caught.value) == error
    with pytest.raises(openai.APIStatusError) as caught:
        voice(audio_sample=b"a" * (11 << 20))
    # The whole's limit or the file's, by the pieces in which it comes.
    assert refused(caught.value) in {
        (413, None, "request_too_large"),
        (413, "audio_sample", "audio_too_large"),
    }
    assert door.store.voices() == []
    assert [kept.id for kept in door.store.consents()] == [consent]
    without(door.engine, Capability.REFERENCE)
    with pytest.raises(openai.BadRequestError) as caught:
        voice(audio_sample=recording(29, 48_000))
    assert refused(caught.value) == (400, "audio_sample", "unsupported_parameter")
    assert door.store.voices() == []
