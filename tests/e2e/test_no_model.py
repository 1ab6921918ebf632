"""The stack without models for speech and transcription, and without a hub to download them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import openai
import pytest

from tests.e2e.server import MODEL, Server
from tests.hearing_app import recording

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def deaf(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(
        home,
        ready_as="degraded",
        BENTOVOX_SPEECH__ENGINE="kokoro",
        BENTOVOX_TRANSCRIPTION__ENGINE="faster_whisper",
        HF_HUB_OFFLINE="1",
        HF_HOME=str(tmp_path_factory.mktemp("empty")),
    ) as server:
        yield server


def test_the_door_is_open_and_says_in_one_line_what_is_lacking(deaf: Server) -> None:
    answer = httpx.get(f"{deaf.url}/readyz")
    assert answer.status_code == 200
    states = answer.json()["detail"]
    lack = states.pop("transcription")
    voice = states.pop("speech")
    assert states == dict.fromkeys(("chat", "conversation"), "ready")
    assert voice.startswith("espeak-ng speaks in kokoro's place: no model: ")
    assert "BENTOVOX_SPEECH__KOKORO__MODEL" in voice
    assert lack.startswith("no model: ")
    assert "hf download Systran/faster-whisper-tiny" in lack
    assert "BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL" in lack
    assert "\n" not in lack


def test_who_asks_for_transcription_is_told_the_same(deaf: Server) -> None:
    with deaf.client() as client, pytest.raises(openai.InternalServerError) as refused:
        client.audio.transcriptions.create(model="whisper-1", file=("a.wav", recording("abc")))
    assert refused.value.status_code == 503
    assert "hf download" in refused.value.message
    assert int(refused.value.response.headers["retry-after"]) >= 1


def test_chat_and_speech_serve_on(deaf: Server) -> None:
    with deaf.client() as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello"}]
        )
        assert answer.choices[0].message.content
        spoken = client.audio.speech.create(model="tts-1", voice="alloy", input="Hello.")
        assert len(spoken.content) > 1000
