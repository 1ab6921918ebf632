"""Translation by real processes: texts with the real vLLM, speech, also live, with fake engines.

The demo model cannot translate, so only the shape of its answers is checked. For speech the result
is known, as a chat backend translates by rule, and the fake engines speak and hear tones.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import openai
import pytest
import uvicorn

from services.conversation.translation.languages import NAMES
from tests.e2e.server import Server, eventually
from tests.fakes.transcription_engine import _characters
from tests.hearing_app import recording
from tests.live_app import RATE_HZ, by_espeak, spoken
from tests.sounds import to_bytes
from tests.translating_app import TranslatingChat
from tests.whisper import PLAIN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATH = "/v1/audio/speech-translations"
TALK = "hello there||||||||||how are you"
PAGE = "<html><p class='a'>Hello <b>you</b> &amp; all</p><script>let a = 1</script></html>"


# Texts, by the demo model


def test_a_list_is_detected_and_translated_with_alternatives(stack: Server) -> None:
    body = {"q": ["Hello.", " What is Bentovox?\n"], "source": "auto", "target": "nl"}
    answer = httpx.post(f"{stack.url}/translate", json={**body, "alternatives": 2}, timeout=60)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    first, second = told["translatedText"]
    assert first.strip() == first
    assert re.fullmatch(r" \S.*\n", second, re.DOTALL)
    assert {one["language"] for one in told["detectedLanguage"]} <= {*NAMES}
    assert all(len(one) <= 2 for one in told["alternatives"])


def test_markup_survives_a_model_that_cannot_translate(stack: Server) -> None:
    body = {"q": PAGE, "source": "en", "target": "de", "format": "html"}
    said = httpx.post(f"{stack.url}/translate", json=body, timeout=60).json()["translatedText"]
    assert re.findall(r"<[^>]*>", said) == re.findall(r"<[^>]*>", PAGE)
    assert "<script>let a = 1</script>" in said


# Speech, by the demo's stack


async def test_what_is_said_to_the_stack_is_spoken_again(stack: Server) -> None:
    speech = await by_espeak(PLAIN, "echo")
    quiet = np.zeros(RATE_HZ, dtype=np.float32)
    said, text, sound = await interpreted(
        stack.url, to_bytes(np.concatenate([quiet, speech, quiet]))
    )
    assert said == PLAIN
    assert text.strip()
    assert len(sound) > RATE_HZ  # half a second


# Speech, by processes of all roles


@contextmanager
def _served(chat: TranslatingChat) -> Iterator[str]:
    config = uvicorn.Config(chat, port=0, log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    try:
        eventually(lambda: server.started, 20, "the chat backend listens")
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


@dataclass(frozen=True)
class Rig:
    chat: TranslatingChat
    speech: Server
    door: Server


def ask(text: str, **fields: str) -> dict[str, Any]:
    files = {"file": ("talk.wav", recording(text), "audio/wav")}
    return {"files": files, "data": {"language": "de", **fields}, "timeout": 60}


@pytest.fixture(scope="module")
def rig(home: Path) -> Iterator[Rig]:
    chat = TranslatingChat()
    with ExitStack() as stack:
        url = stack.enter_context(_served(chat))
        speech = Server(home, "tests.fakes.services:Speech", BENTOVOX_SPEECH__ENGINE="fake")
        stack.enter_context(speech)
        hearing = Server(
            home,
            "tests.fakes.services:Transcription",
            BENTOVOX_TRANSCRIPTION__ENGINE="fake",
        )
        stack.enter_context(hearing)
        roles = {
            "BENTOVOX_GATEWAY__CHAT": json.dumps([url]),
            "BENTOVOX_GATEWAY__SPEECH": json.dumps([speech.url]),
            "BENTOVOX_GATEWAY__TRANSCRIPTION": json.dumps([hearing.url]),
        }
        asking = Server(home, "services.conversation.service:Conversation", **roles)
        stack.enter_context(asking)
        door = Server(
            home,
            "services.gateway.service:Gateway",
            BENTOVOX_GATEWAY__CONVERSATION=json.dumps([asking.url]),
            **roles,
        )
        stack.enter_context(door)
        yield Rig(chat, speech, door)


def heard(pcm: bytes) -> str:
    """Return what the fake ear hears: of 24 kHz every third sample twice is 16 kHz."""
    samples = np.frombuffer(pcm, dtype="<i2").astype(np.float32) / 32768
    at_16_khz = np.interp(np.arange(0, samples.size, 1.5), np.arange(samples.size), samples)
    return "".join(one or " " for one in _characters([at_16_khz.astype(np.float32)]))


def test_a_recording_is_heard_translated_and_spoken(rig: Rig) -> None:
    answer = httpx.post(rig.door.url + PATH, **ask(TALK, response_format="pcm"))
    assert answer.status_code == 200, answer.text
    assert heard(answer.content) == "HELLO THEREHOW ARE YOU"


def test_events_come_sentence_by_sentence(rig: Rig) -> None:
    asked = ask(TALK, response_format="pcm", stream_format="sse")
    answer = httpx.post(rig.door.url + PATH, **asked)
    told = [json.loads(line[6:]) for line in answer.text.splitlines() if line]
    assert [event["delta"] for event in told if "delta" in event] == [
        "hello there",
        "HELLO THERE",
        " how are you",
        " HOW ARE YOU",
    ]
    sound = [base64.b64decode(event["audio"]) for event in told if "audio" in event]
    assert heard(b"".join(sound)) == "HELLO THEREHOW ARE YOU"
    assert told[-1]["type"] == "speech.audio.done"


async def interpreted(url: str, words: bytes) -> tuple[str, str, bytes]:
    """Say something to a session of live translation; return what it told, and its sound."""
    step = RATE_HZ // 5 * 2
    said, text, sound = "", "", b""
    async with (
        asyncio.timeout(60),
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client,
        client.realtime.translations.connect(model="gpt-realtime-translate") as live,
    ):
        audio: Any = {"input": {"transcription": {"model": "whisper-1"}}}
        await live.session.update(session={"audio": {**audio, "output": {"language": "de"}}})

        async def speak() -> None:
            for begin in range(0, len(words), step):
                audio = base64.b64encode(words[begin : begin + step]).decode()
                await live.session.input_audio_buffer.append(audio=audio)
            await live.session.close()

        speaking = asyncio.create_task(speak())
        async for event in live:
            assert event.type != "error", event
            if event.type == "session.input_transcript.delta":
                said += event.delta
            elif event.type == "session.output_transcript.delta":
                text += event.delta
            elif event.type == "session.output_audio.delta":
                sound += base64.b64decode(event.delta)
        await speaking
    assert event.type == "session.closed"
    return said, text, sound


async def test_live_speech_is_translated_while_it_goes_on(rig: Rig) -> None:
    words = spoken("hello there") + spoken("how are you")
    said, text, sound = await interpreted(rig.door.url, words)
    assert said == "hello there how are you"
    assert text == "HELLO THERE HOW ARE YOU"
    assert heard(sound) == "HELLO THEREHOW ARE YOU"
    async with httpx.AsyncClient(trust_env=False) as asking:
        metrics = (await asking.get(f"{rig.door.url}/metrics")).text
    assert re.search(r"bentovox_translation_lag_seconds_count\{.*\} 2\.0", metrics)


def test_a_voice_that_dies_leaves_no_silent_end_and_the_door_serves_on(rig: Rig) -> None:
    say = rig.chat.say
    rig.chat.say = lambda text: (text + " ").upper() * 360  # more sound than sockets hold
    asked = ask("||||||||||".join(["abcdefghij"] * 9), response_format="wav")
    try:
        with httpx.stream("POST", rig.door.url + PATH, **asked) as answer:
            assert answer.status_code == 200
            pieces = answer.iter_raw()
            next(pieces)
            rig.speech.worker("speech").kill()
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                for _ in pieces:
                    pass
    finally:
        rig.chat.say = say

    def works() -> bool:
        again = httpx.post(rig.door.url + PATH, **ask(TALK, response_format="pcm"))
        return again.status_code == 200 and heard(again.content) == "HELLO THEREHOW ARE YOU"

    eventually(works, 60, "the voice is back")
