"""A real Whisper hears words in silence and noise; the detector in front of it prevents that."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from services.audio.encode import to_wav
from services.audio.resample import Resampler
from services.transcription.engines.faster_whisper.loader import TINY_EN
from services.transcription.engines.protocol import SAMPLE_RATE_HZ, TranscriptionRequest
from tests.hearing_app import Hearing
from tests.live_app import MANUAL, RATE_HZ, Served
from tests.packaged import packaged
from tests.sounds import to_bytes
from tests.whisper import speak
from tests.whisper_engine import whisper_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from services.audio.pcm import Samples
    from services.transcription.engines.faster_whisper.engine import FasterWhisperEngine

pytestmark = pytest.mark.timeout(600)  # the first one fetches 70 MB
SENTENCE = "The weather in London was cold and wet, so we stayed at home all day."
SURE = {"weather", "london", "home"}
BEFORE_S = 6.0
SILENCE = np.zeros(20 * SAMPLE_RATE_HZ, dtype=np.float32)
NOISE = np.random.default_rng(0).normal(0, 0.1, SILENCE.size).astype(np.float32)
NOTHING = [SILENCE, NOISE, NOISE * np.float32(0.02)]
NAMES = ["silence", "noise", "faint noise"]
SUBJECTS = (
    "The old teacher and her brother",
    "Every morning the children",
    "My friends from the village",
    "The engineers of the company",
    "Two farmers near the river",
    "Somebody in the kitchen",
    "The captain of the football team",
)
PREDICATES = (
    "walked to the station and waited for the train to London.",
    "opened the window because the room was getting warmer.",
    "bought apples, bread, and flowers at the market.",
    "talked about music until dinner was on the table.",
    "painted the small house green last summer.",
    "forgot the tickets, the passport, and all the money.",
)
VOICES = ("gmw/en-US", "gmw/en", "gmw/en-US+m3", "gmw/en-US+f2", "gmw/en-US+m7")
WORDS = {"response_format": "verbose_json", "timestamp_granularities": ["word", "segment"]}
LONG_S = 180


@pytest.fixture(scope="module")
def folder() -> Path:
    return packaged(TINY_EN)


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[FasterWhisperEngine]:
    async with whisper_engine(folder) as engine:
        yield engine


@pytest.fixture(scope="module")
def speech() -> Samples:
    """A sentence between silences."""
    said = speak(SENTENCE).samples
    before = np.zeros(int(BEFORE_S * SAMPLE_RATE_HZ), dtype=np.float32)
    sound: Samples = np.concatenate([before, said, SILENCE]).astype(np.float32)
    return sound


def live(sound: Samples) -> bytes:
    resampler = Resampler(SAMPLE_RATE_HZ, RATE_HZ)
    return to_bytes(np.concatenate([resampler.feed(sound), resampler.finish()]))


def words_of(text: str) -> set[str]:
    return {word.strip(".,").lower() for word in text.split()}


async def test_this_model_hears_words_in_silence(engine: FasterWhisperEngine) -> None:
    heard = [one.text async for one in engine.transcribe(TranscriptionRequest([SILENCE]))]
    assert "".join(heard).strip(), "the other tests would prove nothing"


@pytest.mark.parametrize("sound", NOTHING, ids=NAMES)
async def test_a_file_in_which_nobody_speaks_has_no_text(
    engine: FasterWhisperEngine, sound: Samples
) -> None:
    hearing: Any = Hearing(engine)  # type: ignore[arg-type]
    fields = {"response_format": "verbose_json"}
    answer = (await hearing.post(to_wav(sound, SAMPLE_RATE_HZ), **fields)).json()
    assert (answer["text"], answer["segments"], answer["duration"]) == ("", [], 20.0)


async def test_speech_is_heard_whole_and_at_its_place(
    engine: FasterWhisperEngine, speech: Samples
) -> None:
    hearing: Any = Hearing(engine)  # type: ignore[arg-type]
    answer = (await hearing.post(to_wav(speech, SAMPLE_RATE_HZ), **WORDS)).json()
    assert words_of(answer["text"]) >= SURE
    assert answer["text"].split()[0].lower() == "the", "the first word is not clipped"
    assert answer["words"][0]["start"] == pytest.approx(BEFORE_S, abs=0.5)
    end_s = speech.size / SAMPLE_RATE_HZ - 20
    assert answer["words"][-1]["end"] == pytest.approx(end_s, abs=0.8)
    assert answer["segments"][-1]["end"] < end_s + 1, "the silence behind it is no text"


async def test_words_over_three_minutes_are_all_there_once_and_in_their_place(
    engine: FasterWhisperEngine,
) -> None:
    sound, spoken = recited()
    hearing: Any = Hearing(engine)  # type: ignore[arg-type]
    wav = to_wav(sound, SAMPLE_RATE_HZ)
    # After a prompt this model skips some sentences.
    prompted = {"prompt": SENTENCE}
    for more, least in (({}, 0.95), (prompted, 0.85)):
        plain = said_in((await hearing.post(wav, **more)).json()["text"])
        heard = (await hearing.post(wav, **WORDS, **more)).json()["words"]
        found = [(word, one["end"]) for one in heard for word in said_in(one["word"])]
        times = [time for one in heard for time in (one["start"], one["end"])]
        assert times == sorted(times)
        same = SequenceMatcher(None, plain, [word for word, _ in found], autojunk=False)
        assert same.ratio() > 0.97, "none is lost where windows are cut, and none is said twice"
        late = []
        matcher = SequenceMatcher(None, [w for w, _ in spoken], [w for w, _ in found], False)  # noqa: FBT003
        for at, there, size in matcher.get_matching_blocks():
            late += [found[there + n][1] - spoken[at + n][1] for n in range(size)]
        assert len(found) > least * len(spoken), "speech is left out"
        assert len(late) > 0.75 * len(spoken), "the other claims are about few words"
        assert abs(median(late)) < 0.3
        assert abs(median(late[-40:])) < 0.3, "times drift from window to window"
        assert sum(abs(one) > 1 for one in late) < 0.1 * len(late)  # some are aligned wrongly


def recited() -> tuple[Samples, list[tuple[str, float]]]:
    """Return three minutes of sentences by several voices, and when each of their words ends."""
    pieces: list[Samples] = []
    words: list[tuple[str, float]] = []
    size = number = 0
    while size < LONG_S * SAMPLE_RATE_HZ:
        text = f"{SUBJECTS[number % len(SUBJECTS)]} {PREDICATES[number % len(PREDICATES)]}"
        clip = speak(text, voice=VOICES[number % len(VOICES)])
        begin = 0
        for end, until_s in clip.words:
            words += [(one, size / SAMPLE_RATE_HZ + until_s) for one in said_in(text[begin:end])]
            begin = end
        pause = np.zeros(SAMPLE_RATE_HZ * (1 + number % 3) // 3, dtype=np.float32)
        pieces += [clip.samples, pause]
        size, number = size + clip.samples.size + pause.size, number + 1
    return np.concatenate(pieces), words


def said_in(text: str) -> list[str]:
    return re.sub(r"[^a-z ]", "", text.lower()).split()


@pytest.mark.parametrize("turns", [{}, MANUAL], ids=["server_vad", "committed"])
@pytest.mark.parametrize("sound", NOTHING, ids=NAMES)
async def test_a_session_in_which_nobody_speaks_has_no_text(
    engine: FasterWhisperEngine, serve: Any, sound: Samples, turns: dict[str, Any]
) -> None:
    role = Served(engine)
    role.url = await serve(role)
    async with role.talk() as talk:
        await talk.configure(**turns)
        await talk.speak(live(sound))
        if turns:
            await talk.say("input_audio_buffer.commit")
            events = await talk.until("completed")
            assert events[-1]["transcript"] == ""
            assert not any(event["type"].endswith("delta") for event in events)
        await talk.say("input_audio_buffer.clear")
        await talk.event("input_audio_buffer.cleared")


@pytest.mark.parametrize("turns", [{}, MANUAL], ids=["server_vad", "committed"])
async def test_a_session_in_which_somebody_speaks_has_what_was_said(
    engine: FasterWhisperEngine, serve: Any, speech: Samples, turns: dict[str, Any]
) -> None:
    role = Served(engine)
    role.url = await serve(role)
    async with role.talk() as talk:
        await talk.configure(**turns)
        await talk.speak(live(speech))
        if turns:
            await talk.say("input_audio_buffer.commit")
        transcript = (await talk.until("completed"))[-1]["transcript"]
    assert words_of(transcript) >= SURE
    assert "you" not in words_of(transcript)
