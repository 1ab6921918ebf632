"""The demo without models for speech and transcription, and without a hub to download them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import openai
import pytest

from services.audio.encode import to_wav
from tests.e2e.server import MODEL, Server
from tests.whisper import PLAIN, RATE_HZ, speak

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def bare(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(
        home,
        BENTOVOX_SPEECH__ENGINE="kokoro",
        BENTOVOX_TRANSCRIPTION__ENGINE="faster_whisper",
        HF_HUB_OFFLINE="1",
        HF_HOME=str(tmp_path_factory.mktemp("empty")),
    ) as server:
        yield server


def test_the_door_is_open_and_says_in_one_line_what_is_lacking(bare: Server) -> None:
    answer = httpx.get(f"{bare.url}/readyz")
    assert answer.status_code == 200
    states = answer.json()["detail"]
    lack = states.pop("transcription")
    voice = states.pop("speech")
    assert states == dict.fromkeys(("chat", "conversation"), "ready")
    assert voice.startswith("espeak-ng speaks in kokoro's place: no model: ")
    assert "BENTOVOX_SPEECH__KOKORO__MODEL" in voice
    assert lack.startswith("pocketsphinx hears in faster_whisper's place: no model: ")
    assert "hf download Systran/faster-whisper-tiny" in lack
    assert "BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL" in lack
    assert "\n" not in lack


def test_it_hears_english_as_well_as_it_can(bare: Server) -> None:
    wav = to_wav(speak(PLAIN, "gmw/en-US+f5").samples, RATE_HZ)
    with bare.client() as client:
        assert "pocketsphinx" in {model.id for model in client.models.list()}
        heard = client.audio.transcriptions.create(model="whisper-1", file=("a.wav", wav))
        said = PLAIN.lower().strip(".").split()
        assert sum(word in heard.text.split() for word in said) > len(said) / 2
        with pytest.raises(openai.BadRequestError, match="pocketsphinx") as refused:
            client.audio.transcriptions.create(
                model="whisper-1", file=("a.wav", wav), language="de"
            )
    assert refused.value.param == "language"


def test_chat_and_speech_serve_on(bare: Server) -> None:
    with bare.client() as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello"}]
        )
        assert answer.choices[0].message.content
        spoken = client.audio.speech.create(model="tts-1", voice="alloy", input="Hello.")
        assert len(spoken.content) > 1000
