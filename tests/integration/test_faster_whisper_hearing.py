"""The engine with a model that the tests trained: exact text, words, guesses."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from faster_whisper import WhisperModel

from services.transcription.engines import windows
from services.transcription.engines.protocol import (
    SAMPLE_RATE_HZ,
    VAD_FRAME_SAMPLES,
    Cutting,
    GuessRequest,
    Segment,
    TranscriptionRequest,
)
from tests.whisper import SENTENCES, TRANSLATIONS, VOICES, Clip, speak, trained
from tests.whisper_engine import whisper_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from services.audio.pcm import Samples
    from services.transcription.engines.faster_whisper.engine import FasterWhisperEngine


pytestmark = pytest.mark.timeout(600)  # the first one may train it, twice on some processors
_SHORT = int(3.3 * SAMPLE_RATE_HZ)


@pytest.fixture(scope="module")
def folder() -> Path:
    return trained()


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[FasterWhisperEngine]:
    async with whisper_engine(folder) as engine:
        yield engine


def pause(duration_s: float) -> Samples:
    return np.zeros(int(duration_s * SAMPLE_RATE_HZ), dtype=np.float32)


def spoken(text: str, language: str = "en") -> Samples:
    return np.concatenate(
        [pause(0.3), speak(text, VOICES[language][0], 1.0, language).samples, pause(0.5)]
    )


async def heard(engine: FasterWhisperEngine, audio: Any, **options: Any) -> list[Segment]:
    return [one async for one in engine.transcribe(TranscriptionRequest(audio, **options))]


def text(segments: list[Segment]) -> str:
    return "".join(one.text for one in segments).strip()


@pytest.mark.parametrize(
    ("language", "sentence"),
    [(language, one) for language, each in SENTENCES.items() for one in each],
)
async def test_each_sentence_is_heard_word_for_word_in_its_language(
    engine: FasterWhisperEngine, language: str, sentence: str
) -> None:
    segments = await heard(engine, [spoken(sentence, language)])
    assert text(segments) == sentence
    assert {one.language for one in segments} == {language}


async def test_german_is_translated_when_asked_for(engine: FasterWhisperEngine) -> None:
    for german, english in TRANSLATIONS.items():
        segments = await heard(engine, [spoken(german, "de")], task="translate")
        assert text(segments) == english


async def test_the_language_is_one_of_those_that_were_asked_for(
    engine: FasterWhisperEngine,
) -> None:
    sound = spoken(SENTENCES["de"][0], "de")
    assert {one.language for one in await heard(engine, [sound], languages=("en",))} == {"en"}
    assert {one.language for one in await heard(engine, [sound])} == {"de"}


async def test_segments_and_words_are_those_of_the_bare_library(
    engine: FasterWhisperEngine, folder: Path
) -> None:
    bare = WhisperModel(str(folder), device="cpu", cpu_threads=1)
    for sentence in SENTENCES["en"]:
        sound = spoken(sentence)
        ours = await heard(engine, [sound], language="en", words=True)
        plain, _ = bare.transcribe(sound, language="en", condition_on_previous_text=False)
        theirs = list(plain)
        assert [one.text for one in ours] == [one.text for one in theirs]
        assert [one.avg_logprob for one in ours] == pytest.approx(
            [one.avg_logprob for one in theirs], abs=1e-3
        )
        timed, _ = bare.transcribe(
            sound, language="en", word_timestamps=True, condition_on_previous_text=False
        )
        # It leaves out a segment whose words all fall on one time.
        for mine, yours in zip(ours, timed, strict=False):
            words = yours.words or ()
            assert [word.text for word in mine.words] == [word.word for word in words]
            assert [word.start_s for word in mine.words] == pytest.approx(
                [word.start for word in words], abs=0.021
            )


async def test_a_recording_has_the_language_of_its_first_window_under_load_too(
    engine: FasterWhisperEngine,
) -> None:
    german, english = spoken(SENTENCES["de"][0], "de"), spoken(SENTENCES["en"][0])
    sound = np.concatenate([*[german] * 12, *[english] * 24])
    alone = await heard(engine, [sound])
    together = await asyncio.gather(
        *(heard(engine, [each]) for each in (sound, english, sound, english, sound))
    )
    for found in (alone, *together[::2]):
        assert {one.language for one in found} == {"de"}
    assert {one.language for one in together[1]} == {"en"}


async def test_together_they_hear_what_each_hears_alone(engine: FasterWhisperEngine) -> None:
    sounds = [spoken(one, language) for language, each in SENTENCES.items() for one in each]
    alone = [await heard(engine, [sound], words=True, logprobs=True) for sound in sounds]
    together = await asyncio.gather(
        *(heard(engine, [sound], words=True, logprobs=True) for sound in sounds)
    )
    for one, other in zip(alone, together, strict=True):
        assert [(s.text, s.start_s, s.end_s, s.tokens) for s in one] == [
            (s.text, s.start_s, s.end_s, s.tokens) for s in other
        ]
        assert [word.text for s in one for word in s.words] == [
            word.text for s in other for word in s.words
        ]
        assert np.allclose(
            [token.logprob for s in one for token in s.logprobs],
            [token.logprob for s in other for token in s.logprobs],
            atol=1e-2,
        )


def long_recording(count: int) -> tuple[list[Clip], list[float], Samples]:
    """Return sentences with pauses between them: the clips, where each begins, and the sound."""
    clips, starts, parts, at = [], [], [], 0.0
    for sentence in itertools.islice(itertools.cycle(SENTENCES["en"]), count):
        clip = speak(sentence)
        parts += [clip.samples, pause(0.9)]
        clips.append(clip)
        starts.append(at / SAMPLE_RATE_HZ)
        at += clip.samples.size + parts[-1].size
    return clips, starts, np.concatenate(parts)


def pieces(sound: Samples) -> Iterator[Samples]:
    for begin in range(0, sound.size, 4000):
        yield sound[begin : begin + 4000]


@pytest.mark.parametrize("cutting", [None, Cutting()])
async def test_minutes_of_speech_are_heard_to_their_end_at_their_times(
    engine: FasterWhisperEngine, cutting: Cutting | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Cut as it is at 30 s, only sooner: the model knows few sentences in a window.
    monkeypatch.setattr(windows, "_MOST", _SHORT)
    monkeypatch.setattr(windows, "_MOST_FRAMES", _SHORT // VAD_FRAME_SAMPLES)
    clips, starts, sound = long_recording(45)
    assert sound.size > 120 * SAMPLE_RATE_HZ
    segments = await heard(engine, pieces(sound), cutting=cutting, language="en")
    written = [clip.text for clip in clips]
    for sentence in SENTENCES["en"]:  # said five or six times each
        assert text(segments).count(sentence) >= 4
    if cutting:  # without it windows end in pauses, after which the model may repeat itself
        assert text(segments) == " ".join(written)
    assert segments[-1].start_s > 100
    near_s = 1.2 if cutting else 3.3  # a window
    for segment in segments:
        places = [at for at, one in zip(starts, written, strict=True) if one in segment.text]
        assert not places or min(abs(segment.start_s - at) for at in places) < near_s


async def test_guesses_grow_with_the_sound_and_keep_what_is_settled(
    engine: FasterWhisperEngine,
) -> None:
    clip = speak(SENTENCES["en"][0])
    sound = np.concatenate([clip.samples, pause(0.4)])
    prefix, texts = "", []
    for cut in range(8000, sound.size + 8000, 8000):
        answer = await engine.guess(GuessRequest(sound[:cut], prefix=prefix))
        assert answer.text.startswith(prefix)
        texts.append(answer.text)
        prefix = " ".join(answer.text.split()[:-3])  # all but what may still change
    assert texts[-1] == clip.text
    assert answer.language == "en"


async def test_a_prefix_is_kept_letter_for_letter(engine: FasterWhisperEngine) -> None:
    sound = spoken(SENTENCES["en"][0])
    for prefix in ("The quick brown", "The quick brown ", "A slow red fox", "  odd   spaces"):
        assert (await engine.guess(GuessRequest(sound, prefix=prefix))).text.startswith(prefix)


async def test_guesses_of_all_lengths_are_heard_together(engine: FasterWhisperEngine) -> None:
    sound = spoken(SENTENCES["en"][0])
    prefixes = ["", "The", "The quick brown", "The quick brown fox jumps over"]
    alone = [await engine.guess(GuessRequest(sound, prefix=one)) for one in prefixes]
    together = await asyncio.gather(
        *(engine.guess(GuessRequest(sound, prefix=one)) for one in prefixes)
    )
    assert [one.text for one in together] == [one.text for one in alone]


async def test_silence_is_no_text(engine: FasterWhisperEngine) -> None:
    assert text(await heard(engine, [pause(5)])) == ""
    assert (await engine.guess(GuessRequest(pause(3)))).text == ""
