"""Live transcription in a real process: Pipecat's services, and twenty speakers at once."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import connect

from services.audio.pcm import to_bytes
from services.openai.sockets import TRANSCRIPTION
from tests.e2e.server import Server, clients_python
from tests.hearing_app import said

if TYPE_CHECKING:
    from collections.abc import Iterator

RATE_HZ = 24_000
STEP_S = 0.04
PAUSE = "|" * 8
TEXT = "what is said goes on and on here"
TEXT_S = len(TEXT) / 10
(PATH,) = TRANSCRIPTION


@pytest.fixture(scope="module")
def ears(home: Path) -> Iterator[Server]:
    with Server(home, "services.transcription.service:Transcription") as server:
        yield server


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of somebody who is silent for 0.8 s, speaks for 3.2 s and is silent again."""
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(to_bytes(said(PAUSE + TEXT + PAUSE, RATE_HZ)))
    return path


def pipecat(kind: str, server: Server, speech: Path) -> list[dict[str, Any]]:
    python = clients_python()
    if python is None:
        pytest.skip("no Pipecat: CLIENTS_PYTHON is unset, and .nox/clients is not there")
    script = Path(__file__).with_name("pipecat_client.py")
    done = subprocess.run(
        [str(python), str(script), kind, server.url, str(speech)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one for one in told if one["kind"] == "error"] == [], done.stderr[-4000:]
    return told


def test_pipecats_service_for_files(ears: Server, speech: Path) -> None:
    (final,) = pipecat("file", ears, speech)
    assert (final["kind"], final["text"]) == ("final", TEXT)


@pytest.mark.parametrize("kind", ["live", "server-vad"])
def test_pipecats_live_service_gets_text_while_it_sends_sound(
    ears: Server, speech: Path, kind: str
) -> None:
    told = pipecat(kind, ears, speech)
    interim = [one for one in told if one["kind"] == "interim"]
    assert interim[0]["played_s"] < 0.8 + TEXT_S  # somebody was still speaking
    assert "".join(one["text"] for one in interim) == TEXT
    assert told[-1]["kind"] == "final"
    assert told[-1]["text"] == TEXT
    turns = {one["kind"] for one in told} & {"started", "stopped"}
    assert turns == ({"started", "stopped"} if kind == "server-vad" else set())


async def test_twenty_speakers_at_once_are_each_heard_while_they_speak(ears: Server) -> None:
    texts = [f"speaker {chr(97 + one)} says what only {chr(97 + one)} says" for one in range(20)]
    async with asyncio.timeout(60):
        found = await asyncio.gather(*(heard(ears, text) for text in texts))
    for text, (told, transcript) in zip(texts, found, strict=True):
        assert transcript == text
        assert "".join(delta for delta, _ in told) == text
        assert not told[0][1]  # it came before the speaker had ended
    heard_s = ears.sample("bentovox_heard_seconds_total", role="transcription")
    assert heard_s > len(texts) * TEXT_S


async def heard(server: Server, text: str) -> tuple[list[tuple[str, bool]], str]:
    """Speak as a microphone does; return each delta, with whether all was said, and the text."""
    data = to_bytes(said(PAUSE + text + PAUSE, RATE_HZ))
    spoken = asyncio.Event()
    url = f"{server.url.replace('http', 'ws')}{PATH}?intent=transcription"
    async with connect(url, proxy=None) as connection:

        async def speak() -> None:
            step = int(RATE_HZ * STEP_S) * 2
            for begin in range(0, len(data), step):
                if begin > (len(PAUSE) + len(text)) * RATE_HZ // 10 * 2:
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
