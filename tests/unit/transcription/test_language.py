"""A recording's language is that of its first window with speech, whatever else is running."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from services.errors import EngineError
from services.transcription.engines import batches
from services.transcription.engines.faster_whisper import engine as under_test
from services.transcription.engines.faster_whisper.checkpoint import Decoded
from services.transcription.engines.faster_whisper.engine import FasterWhisperEngine
from services.transcription.engines.faster_whisper.loader import Loader
from services.transcription.engines.protocol import (
    SPEECH_ONLY,
    VAD_FRAME_SAMPLES,
    Segment,
    TranscriptionRequest,
)
from services.transcription.engines.windows import Timeline
from tests.unit.transcription.test_windows import Loud

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from services.audio.pcm import Samples
    from services.transcription.engines.protocol import Cutting

# What a window holds, by the level of its samples: how likely each language is there.
CHANCES = {0.0: {"cy": 0.9, "de": 0.1}, 0.25: {"de": 0.9, "fr": 0.1}, 0.5: {"fr": 0.9, "de": 0.1}}
SILENT, GERMAN, FRENCH, SILENT_TO_WHISPER = 0.0, 0.25, 0.5, 0.75
CHANCES[SILENT_TO_WHISPER] = {"cy": 1.0}


class Checkpoint:
    """Encodes a window as its level; texts are good, unless it hears silence."""

    languages = frozenset({"cy", "de", "fr"})

    def before(self, prompt: str, keywords: Sequence[str]) -> list[int]:
        return [len(prompt), len(keywords)]

    def features(self, samples: Samples) -> Any:
        return np.full((80, 100), samples[samples.size // 2])

    def encode(self, features: Sequence[Any]) -> Any:
        return np.array([one[0, 0] for one in features], dtype=np.float32).reshape(-1, 1, 1)

    def language_chances(self, encoded: Any) -> list[dict[str, float]]:
        return [CHANCES[float(one)] for one in encoded.reshape(-1)]

    def prompt(self, before: Any, language: str, task: str, *, times: bool) -> list[Any]:
        return [*before, language, task, times]

    def __init__(self) -> None:
        self.decoded: list[int] = []

    def generate(self, encoded: Any, _prompts: Any, **_: Any) -> list[Decoded]:
        self.decoded.append(len(encoded))
        return [
            Decoded(0.0, [], "said", *((-1.5, 0.9) if one == SILENT_TO_WHISPER else (-0.2, 0.1)))
            for one in encoded.reshape(-1)
        ]


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def segments(
        _model: Any, _request: Any, heard: Any, timeline: Timeline, *, frames: int, **_: Any
    ) -> tuple[list[Segment], int]:
        return [Segment(0, 1, number(timeline), heard.language)], frames

    def windows(audio: Any, *_: Any) -> Iterator[Any]:
        for index, samples in enumerate(audio):
            yield samples, Timeline(((0, index * samples.size),), samples.size)

    monkeypatch.setattr(batches, "windows", windows)
    monkeypatch.setattr(batches, "SileroDetector", Loud)
    monkeypatch.setattr(under_test, "SileroDetector", Loud)
    monkeypatch.setattr(under_test, "segments", segments)
    monkeypatch.setattr(Loader, "start", lambda _: None)


def number(timeline: Timeline) -> str:
    """Return the number of a window."""
    return str(timeline.parts[0][1] // VAD_FRAME_SAMPLES)


async def heard(
    levels: Sequence[float],
    most: int,
    cutting: Cutting | None = None,
    model: Any = None,
    **options: Any,
) -> list[tuple[str, str]]:
    """Return the text and language of each segment, `most` windows decoded at once."""
    sound = [np.full(VAD_FRAME_SAMPLES, level, dtype=np.float32) for level in levels]
    engine = FasterWhisperEngine(batch=most)
    await engine.start()
    cast("Any", engine)._loader.model = model or Checkpoint()
    request = TranscriptionRequest(sound, cutting=cutting, **options)
    async with aclosing(engine.transcribe(request)) as segments:
        found = [(one.text, one.language) async for one in segments]
    await engine.close()
    return found


AT_ONCE = pytest.mark.parametrize("most", [1, 2, 8])


@AT_ONCE
async def test_silence_before_speech_does_not_tell_the_language(most: int) -> None:
    languages = dict(await heard([SILENT, SILENT, GERMAN, FRENCH, SILENT], most))
    assert languages == {"0": "cy", "1": "cy", "2": "de", "3": "de", "4": "de"}


@AT_ONCE
@pytest.mark.parametrize("cutting", [None, SPEECH_ONLY])
async def test_the_first_window_with_speech_tells_it_for_all(
    most: int, cutting: Cutting | None
) -> None:
    assert {language for _, language in await heard([FRENCH, GERMAN, GERMAN], most, cutting)} == {
        "fr"
    }


@AT_ONCE
async def test_what_the_model_takes_for_silence_does_not_tell_it(most: int) -> None:
    languages = await heard([SILENT_TO_WHISPER, GERMAN, FRENCH], most, SPEECH_ONLY)
    assert [language for _, language in languages[1:]] == ["de", "de"]


@AT_ONCE
async def test_a_language_that_was_named_is_taken(most: int) -> None:
    assert {language for _, language in await heard([SILENT, GERMAN], most, language="fr")} == {
        "fr"
    }


@AT_ONCE
async def test_nobody_speaks_and_everything_is_heard_all_the_same(most: int) -> None:
    assert [text for text, _ in await heard([SILENT] * 5, most)] == [*"01234"]


@AT_ONCE
async def test_windows_are_handed_over_in_their_order(most: int) -> None:
    assert [text for text, _ in await heard([SILENT, GERMAN] * 3, most)] == [*"012345"]


async def test_the_first_text_waits_for_nothing_but_its_own_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is decoded alone, and handed over before what the model left of its window."""

    def segments(
        _model: Any,
        _request: Any,
        _: Any,
        timeline: Timeline,
        *,
        offset: int,
        frames: int,
        **__: Any,
    ) -> tuple[list[Segment], int]:
        text = f"{number(timeline)} from {offset}"
        return [Segment(0, 1, text, "fr")], frames if offset else frames // 2

    monkeypatch.setattr(under_test, "segments", segments)
    model = Checkpoint()
    found = await heard([FRENCH] * 3, 8, model=model, language="fr")
    assert [text for text, _ in found] == [
        f"{index} from {offset}" for index in range(3) for offset in (0, 50)
    ]
    assert model.decoded[0] == 1


async def test_segments_that_cannot_be_made_are_an_engine_error_in_their_place(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("no segments can be made of this")

    monkeypatch.setattr(under_test, "segments", broken)
    with pytest.raises(EngineError, match="Whisper failed") as told:
        await heard([FRENCH] * 3, 8)
    assert isinstance(told.value.__cause__, ValueError)
    assert "no segments can be made of this" in caplog.text
