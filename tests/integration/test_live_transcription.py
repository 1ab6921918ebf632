"""Live sessions with the real engine: Silero on real speech, and Whisper models made here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.live_app import (
    MANUAL,
    RATE_HZ,
    VAD_TURN,
    Served,
    Talk,
    by_espeak,
    deltas,
    of_turn,
    until,
)
from tests.parrot import TEXT, parrot
from tests.sounds import to_bytes
from tests.whisper import SENTENCES, trained
from tests.whisper_engine import whisper_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from services.audio.pcm import Samples

pytestmark = pytest.mark.timeout(600)  # one may train Whisper, twice on some processors
SAID = TEXT.strip()  # whatever is spoken
SILENCE_S = 1.5
VOICE = "echo"  # one of those that the model has learnt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parrot(tmp_path_factory.mktemp("parrot"))


@pytest.fixture
async def role(folder: Path, serve: Any) -> AsyncIterator[Served]:
    async with whisper_engine(folder) as engine:
        served = Served(engine)
        served.url = await serve(served)
        yield served


@pytest.fixture(scope="module")
def speech() -> Samples:
    """A sentence of some seconds at the rate of live sound, without silence around it."""
    return asyncio.run(by_espeak("Could you tell me when the next train leaves, please?"))


def silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * RATE_HZ), dtype=np.float32)


async def test_silero_finds_each_turn_and_where_it_begins_and_ends(
    role: Served, speech: Samples
) -> None:
    seconds = speech.size / RATE_HZ
    sound = [silence(SILENCE_S), speech, silence(SILENCE_S), speech, silence(SILENCE_S)]
    async with role.talk() as talk:
        await talk.speak(to_bytes(np.concatenate(sound)))
        events = [*await talk.until("completed"), *await talk.until("completed")]
    assert sorted(of_turn(events)) == sorted(VAD_TURN * 2)
    starts = [one["audio_start_ms"] for one in events if "audio_start_ms" in one]
    ends = [one["audio_end_ms"] for one in events if one["type"].endswith("speech_stopped")]
    begins_s = [SILENCE_S, 2 * SILENCE_S + seconds]
    assert starts == pytest.approx([(one - 0.3) * 1000 for one in begins_s], abs=200)
    assert ends == pytest.approx([(one + seconds + 0.5) * 1000 for one in begins_s], abs=300)
    texts = [one["transcript"] for one in events if "transcript" in one]
    assert texts == [SAID, SAID]


async def test_text_comes_before_the_turn_has_ended(role: Served, speech: Samples) -> None:
    guessed: list[str] = []
    guess = role.engine.guess

    async def noted(request: Any) -> Any:
        answer = await guess(request)
        guessed.append(answer.text)
        return answer

    role.engine.guess = noted
    first, second = int(1.2 * RATE_HZ), int(1.8 * RATE_HZ)
    assert speech.size > second
    async with role.talk(**MANUAL) as talk:
        await talk.speak(to_bytes(speech[:first]))
        await until(lambda: len(guessed) > 0)
        await talk.speak(to_bytes(speech[first:second]))
        events = await talk.until("delta")
        assert SAID.startswith(deltas(events))
        await talk.speak(to_bytes(speech[second:]))
        await talk.say("input_audio_buffer.commit")
        events += await talk.until("completed")
    assert deltas(events) == events[-1]["transcript"] == SAID


@pytest.fixture(scope="module")
def listening_folder() -> Path:
    return trained()


@pytest.fixture
async def listening(listening_folder: Path, serve: Any) -> AsyncIterator[Served]:
    """A role whose model really hears what espeak-ng says."""
    async with whisper_engine(listening_folder) as engine:
        served = Served(engine)
        served.url = await serve(served)
        yield served


async def test_what_is_said_is_heard_word_for_word_turn_by_turn(listening: Served) -> None:
    texts = SENTENCES["en"][:4]
    async with listening.talk(transcription={"language": "en"}) as talk:
        for text in texts:
            for sound in (silence(SILENCE_S), await by_espeak(text, VOICE), silence(SILENCE_S)):
                await talk.speak(to_bytes(sound))
            events = await talk.until("completed")
            assert events[-1]["transcript"] == deltas(events) == text


async def test_words_come_while_they_are_said(listening: Served) -> None:
    text = SENTENCES["en"][0]
    speech = np.concatenate([await by_espeak(text, VOICE), silence(SILENCE_S)])
    step = RATE_HZ // 2
    async with listening.talk(transcription={"language": "en"}) as talk:
        heard: list[dict[str, Any]] = []
        receiving = asyncio.create_task(received(talk, heard))
        for begin in range(0, speech.size, step):
            await talk.speak(to_bytes(speech[begin : begin + step]))
            await asyncio.sleep(0.5)  # a microphone is no faster
        await receiving
    before = said_before_its_end(heard)
    assert text.startswith(before)
    assert len(before.split()) >= 3  # of nine
    assert deltas(heard) == heard[-1]["transcript"] == text


def said_before_its_end(events: list[dict[str, Any]]) -> str:
    kinds = [event["type"] for event in events]
    return deltas(events[: kinds.index(VAD_TURN[1])])


async def received(talk: Talk, events: list[dict[str, Any]]) -> None:
    events += await talk.until("completed")
