"""Live transcription in a real process: Pipecat's services and 20 speakers at once."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import wave
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from websockets.asyncio.client import connect

from services.openai.paths import SOCKETS
from tests.e2e.server import ROOT, Server, clients_python
from tests.hearing_app import said
from tests.live_app import RATE_HZ, by_espeak
from tests.parrot import TEXT, parrot
from tests.sounds import to_bytes
from tests.whisper import PLAIN, trained

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from services.audio.pcm import Samples

STEP_S = 0.04
PAUSE_S = 0.8
VOICE = "echo"
SAID = "what is said goes on and on here"
PATH = SOCKETS["transcription"]


@dataclass(frozen=True)
class Ears:
    """A server with live transcription, and speech for it.

    Attributes:
        server: the server.
        speech: a few seconds, float32 at `RATE_HZ`.
        text: its transcript.
    """

    server: Server
    speech: Samples
    text: str

    def recording(self, folder: Path) -> Path:
        """Return the speech as a wav file, between silences."""
        path = folder / "speech.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE_HZ)
            file.writeframes(between_silences(self.speech))
        return path


def between_silences(speech: Samples) -> bytes:
    silence = np.zeros(int(PAUSE_S * RATE_HZ), dtype=np.float32)
    return to_bytes(np.concatenate([silence, speech, silence]))


@contextmanager
def listening(home: Path, speech: Samples, text: str, model: Path | None) -> Iterator[Ears]:
    """Serve an engine that hears tones, or the real one with a model."""
    service = "tests.fakes.services:Transcription"
    settings = {"BENTOVOX_TRANSCRIPTION__ENGINE": "fake"}
    if model:
        service = "services.transcription.service:Transcription"
        settings = {"BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL": str(model)}
    with Server(home, service, **settings) as server:
        yield Ears(server, speech, text)


@pytest.fixture(scope="module", params=["fake", "faster_whisper"])
def ears(request: Any, home: Path) -> Iterator[Ears]:
    """One that hears tones, and the real engine on a model that learnt a dozen sentences."""
    text, speech, model = SAID, said(SAID, RATE_HZ), None
    if request.param == "faster_whisper":
        text, model = PLAIN, trained()
        speech = asyncio.run(by_espeak(text, VOICE))
    with listening(home, speech, text, model) as made:
        yield made


@pytest.fixture(scope="module", params=["fake", "faster_whisper"])
def crowd(request: Any, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ears]:
    """One that hears tones; and the real engine, whose model has one text for all that is said.

    That one is told 18 s of speech: two cores need some for the first guesses at twenty speakers.
    """
    text, speech, model = SAID, said(SAID, RATE_HZ), None
    if request.param == "faster_whisper":
        text, model = TEXT.strip(), parrot(tmp_path_factory.mktemp("parrot"))
        speech = np.concatenate([asyncio.run(by_espeak(" ".join([SAID] * 3)))] * 3)
    with listening(home, speech, text, model) as made:
        yield made


def pipecat(kind: str, ears: Ears, folder: Path) -> list[dict[str, Any]]:
    python = clients_python()
    if python is None:
        pytest.skip("no Pipecat: CLIENTS_PYTHON is unset, and .nox/clients is not there")
    script = ROOT / "tests" / "clients" / "python" / "drive_pipecat.py"
    done = subprocess.run(
        [str(python), str(script), kind, ears.server.url, str(ears.recording(folder))],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one for one in told if one["kind"] == "error"] == [], done.stderr[-4000:]
    return told


def test_pipecats_service_for_files(ears: Ears, tmp_path: Path) -> None:
    (final,) = pipecat("file", ears, tmp_path)
    assert (final["kind"], final["text"]) == ("final", ears.text)


@pytest.mark.parametrize("kind", ["live", "server-vad"])
def test_pipecats_live_service_gets_text_while_it_sends_sound(
    ears: Ears, tmp_path: Path, kind: str
) -> None:
    told = pipecat(kind, ears, tmp_path)
    interim = [one for one in told if one["kind"] == "interim"]
    assert interim[0]["played_s"] < PAUSE_S + ears.speech.size / RATE_HZ  # somebody still spoke
    assert "".join(one["text"] for one in interim) == ears.text
    assert told[-1]["kind"] == "final"
    assert told[-1]["text"] == ears.text
    turns = {one["kind"] for one in told} & {"started", "stopped"}
    assert turns == ({"started", "stopped"} if kind == "server-vad" else set())


async def test_twenty_speakers_at_once_are_each_heard_while_they_speak(crowd: Ears) -> None:
    texts, speeches = [crowd.text] * 20, [crowd.speech] * 20
    if crowd.text == SAID:  # whoever hears each by itself
        texts = [f"speaker {one} says what only {one} says" for one in "abcdefghijklmnopqrst"]
        speeches = [said(text, RATE_HZ) for text in texts]
    async with asyncio.timeout(120):
        found = await asyncio.gather(*(heard(crowd.server, one) for one in speeches))
    for text, (told, transcript) in zip(texts, found, strict=True):
        assert transcript == text
        assert "".join(delta for delta, _ in told) == text
        assert not told[0][1]  # it came before the speaker had ended
    heard_s = crowd.server.sample("bentovox_heard_seconds_total", role="transcription")
    assert heard_s > sum(one.size for one in speeches) / RATE_HZ


async def heard(server: Server, speech: Samples) -> tuple[list[tuple[str, bool]], str]:
    """Speak as a microphone does; return each delta, with whether all was said, and the text."""
    data = between_silences(speech)
    end = len(data) - int(PAUSE_S * RATE_HZ) * 2
    spoken = asyncio.Event()
    url = f"{server.url.replace('http', 'ws')}{PATH}?intent=transcription"
    async with connect(url, proxy=None) as connection:

        async def speak() -> None:
            step = int(RATE_HZ * STEP_S) * 2
            for begin in range(0, len(data), step):
                if begin >= end:
                    spoken.set()
                audio = base64.b64encode(data[begin : begin + step]).decode()
                message = {"type": "input_audio_buffer.append", "audio": audio}
                await connection.send(json.dumps(message))
                await asyncio.sleep(STEP_S)  # a microphone is no faster

        speaking = asyncio.create_task(speak())
        told = []
        async for message in connection:
            event = json.loads(message)
            assert event["type"] != "error", event
            if event["type"].endswith("transcription.delta"):
                told.append((event["delta"], spoken.is_set()))
            if event["type"].endswith("transcription.completed"):
                await speaking
                return told, event["transcript"]
    raise AssertionError("it was closed before its text came")
