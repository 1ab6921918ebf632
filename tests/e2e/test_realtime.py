"""Live transcription in a real process, 20 speakers at once; a conversation with a stack."""

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
import openai
import pytest
from websockets.asyncio.client import connect

from services.openai.paths import REALTIME
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
PATH = REALTIME


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


def recorded(speech: Samples, folder: Path) -> Path:
    """Return speech as a wav file, between silences."""
    path = folder / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes(between_silences(speech))
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
        [str(python), str(script), kind, ears.server.url, str(recorded(ears.speech, folder))],
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
    (final,) = (one for one in told if one["kind"] == "final")
    assert "".join(one["text"] for one in interim) == final["text"]
    # Where Pipecat sent the first packets too early, the fake's tenths begin within a letter.
    assert final["text"].endswith(ears.text)
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
    early = sum(not told[0][1] for told, _ in found)  # with text before they had ended
    assert early > len(texts) / 2
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


def message(text: str) -> Any:
    content = [{"type": "input_text", "text": text}]
    return {"type": "message", "role": "user", "content": content}


async def until(live: Any, *kinds: str) -> list[Any]:
    """Return the events up to the first of `kinds`; fail at an `error` that is none of them."""
    events: list[Any] = []
    while not events or events[-1].type not in kinds:
        events.append(await live.recv())
        assert events[-1].type in kinds or events[-1].type != "error", events[-1]
    return events


async def until_done(live: Any) -> list[Any]:
    return await until(live, "response.done")


async def test_a_conversation_with_the_demo_stack(stack: Server, plain: dict[str, str]) -> None:
    """A text is answered aloud, speech is understood and answered, and speech interrupts."""
    async with (
        asyncio.timeout(120),
        openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none") as client,
        client.realtime.connect(model="gpt-realtime") as live,
    ):
        session: Any = {
            "type": "realtime",
            "audio": {"input": {"transcription": {"model": "whisper-1", "language": "en"}}},
        }
        await live.session.update(session=session)
        await live.conversation.item.create(item=message("Hello"))
        await live.response.create()
        events = await until_done(live)
        answer = events[-1].response.output[0].content[0].transcript
        assert answer == plain["Hello"]
        assert events[-1].response.usage.output_tokens > 0
        assert sound_s(events) > 1

        speech = between_silences(await by_espeak(PLAIN, VOICE))
        await hear(live, speech)
        events = await until_done(live)
        heard_ = [event.transcript for event in events if event.type.endswith("n.completed")]
        assert heard_ == [PLAIN]
        assert events[-1].response.status == "completed"
        assert sound_s(events) > 1

        await live.conversation.item.create(item=message("Hello"))
        await live.response.create()
        await until(live, "response.output_audio.delta")
        await hear(live, speech)
        events = await until_done(live)
        # The voice may have been ready before the first word was heard.
        assert events[-1].response.status in ("cancelled", "completed")
        if events[-1].response.status == "completed":
            events = await until_done(live)
        assert any(event.type == "input_audio_buffer.speech_started" for event in events)


async def test_a_conversation_outlives_its_ear(stack: Server) -> None:
    async with (
        asyncio.timeout(240),
        openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none") as client,
        client.realtime.connect(model="gpt-realtime") as live,
    ):
        session: Any = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
        await live.session.update(session=session)
        await until(live, "session.updated")
        stack.worker("transcription").kill()
        told = (await until(live, "error"))[-1]
        speech = await by_espeak(PLAIN, VOICE)
        while told.type == "error":  # until there is a new worker, and the role knows of it
            assert told.error.type == "server_error"
            await asyncio.sleep(0.1)
            await live.session.update(session=session)
            told = (await until(live, "session.updated", "error"))[-1]
        await hear(live, between_silences(speech))
        await live.input_audio_buffer.commit()
        item = (await until(live, "conversation.item.done"))[-1].item
        await live.response.create()
        assert (await until_done(live))[-1].response.status == "completed"
        await live.conversation.item.retrieve(item_id=item.id)
        again = (await until(live, "conversation.item.retrieved"))[-1].item
        assert again.content[0].transcript == PLAIN


async def hear(live: Any, speech: bytes) -> None:
    step = RATE_HZ // 10 * 2
    for begin in range(0, len(speech), step):
        audio = base64.b64encode(speech[begin : begin + step]).decode()
        await live.input_audio_buffer.append(audio=audio)


def sound_s(events: list[Any]) -> float:
    sound = [one.delta for one in events if one.type == "response.output_audio.delta"]
    return sum(len(base64.b64decode(one)) for one in sound) / 2 / RATE_HZ
