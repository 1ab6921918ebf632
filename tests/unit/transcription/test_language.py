"""A recording's language is that of its first window with speech, whatever else is running."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from services.transcription.engines.faster_whisper import engine as under_test
from services.transcription.engines.faster_whisper.checkpoint import Decoded
from services.transcription.engines.faster_whisper.decoder import Decoder
from services.transcription.engines.faster_whisper.engine import Recording
from services.transcription.engines.protocol import (
    SPEECH_ONLY,
    VAD_FRAME_SAMPLES,
    Segment,
    TranscriptionRequest,
)
from services.transcription.engines.windows import Timeline
from tests.unit.transcription.test_decoder import Lane
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

    def generate(self, encoded: Any, _prompts: Any, **_: Any) -> list[Decoded]:
        return [
            Decoded(0.0, [], "said", *((-1.5, 0.9) if one == SILENT_TO_WHISPER else (-0.2, 0.1)))
            for one in encoded.reshape(-1)
        ]


class Batches:
    def __init__(self) -> None:
        self.lanes: list[Lane] = []

    def lane(self) -> Lane:
        self.lanes.append(Lane())
        return self.lanes[-1]


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def segments(_model: Any, heard: Any, *_: Any, **__: Any) -> tuple[list[Segment], int]:
        text = f"{heard.job.index}"
        return [Segment(0, 1, text, heard.language)], heard.job.features.shape[1]

    def windows(audio: Any, *_: Any) -> Iterator[Any]:
        for index, samples in enumerate(audio):
            yield samples, Timeline(((0, index * samples.size),), samples.size)

    monkeypatch.setattr(under_test, "windows", windows)
    monkeypatch.setattr(under_test, "SileroDetector", Loud)
    monkeypatch.setattr(under_test, "segments", segments)


class Taken:
    """Windows' segments in the order they arrive."""

    def __init__(self) -> None:
        self.windows: list[list[Segment]] = []
        self.ended = False

    def put(self, found: tuple[list[Segment], bool]) -> bool:
        self.windows.append(found[0])
        return True

    def end(self, error: BaseException | None = None) -> None:
        assert error is None
        self.ended = True


def heard(
    levels: Sequence[float], most: int, cutting: Cutting | None = None, **options: Any
) -> list[tuple[int, str]]:
    """Return which window was heard in which language, `most` of them heard at once."""
    sound = [np.full(VAD_FRAME_SAMPLES, level, dtype=np.float32) for level in levels]
    batches, taken, model = Batches(), Taken(), Checkpoint()
    given: tuple[Any, ...] = (model, batches)
    request = TranscriptionRequest(sound, cutting=cutting, **options)
    hearing = Recording(*given, request, cast("Any", taken), len(levels) + 2)
    hearing.read()
    (lane,) = batches.lanes
    while lane.jobs:
        jobs, lane.jobs = lane.jobs[:most], lane.jobs[most:]
        Decoder(cast("Any", model), 5).hear(jobs)
    assert taken.ended
    return [(int(one.text), one.language) for window in taken.windows for one in window]


AT_ONCE = pytest.mark.parametrize("most", [1, 2, 8])


@AT_ONCE
def test_silence_before_speech_does_not_tell_the_language(most: int) -> None:
    languages = dict(heard([SILENT, SILENT, GERMAN, FRENCH, SILENT], most))
    assert languages == {0: "cy", 1: "cy", 2: "de", 3: "de", 4: "de"}


@AT_ONCE
@pytest.mark.parametrize("cutting", [None, SPEECH_ONLY])
def test_the_first_window_with_speech_tells_it_for_all(most: int, cutting: Cutting | None) -> None:
    assert {language for _, language in heard([FRENCH, GERMAN, GERMAN], most, cutting)} == {"fr"}


@AT_ONCE
def test_what_the_model_takes_for_silence_does_not_tell_it(most: int) -> None:
    languages = heard([SILENT_TO_WHISPER, GERMAN, FRENCH], most, SPEECH_ONLY)
    assert [language for _, language in languages[1:]] == ["de", "de"]


@AT_ONCE
def test_a_language_that_was_named_is_taken(most: int) -> None:
    assert {language for _, language in heard([SILENT, GERMAN], most, language="fr")} == {"fr"}


@AT_ONCE
def test_nobody_speaks_and_everything_is_heard_all_the_same(most: int) -> None:
    assert [index for index, _ in heard([SILENT] * 5, most)] == [0, 1, 2, 3, 4]


@AT_ONCE
def test_windows_are_handed_over_in_their_order(most: int) -> None:
    assert [index for index, _ in heard([SILENT, GERMAN] * 3, most)] == [0, 1, 2, 3, 4, 5]


def test_the_first_text_waits_for_nothing_but_its_own_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is decoded alone, and handed over before what the model left of its window."""

    def segments(_model: Any, heard: Any, *_: Any, **__: Any) -> tuple[list[Segment], int]:
        size = heard.job.features.shape[1]
        part = f"{heard.job.index} from {heard.job.offset}"
        return [Segment(0, 1, part, "fr")], size // 2 if not heard.job.offset else size

    monkeypatch.setattr(under_test, "segments", segments)
    batches, taken, model = Batches(), Taken(), cast("Any", Checkpoint())
    sound = [np.full(VAD_FRAME_SAMPLES, FRENCH, dtype=np.float32)] * 3
    request = TranscriptionRequest(sound, language="fr")
    Recording(model, cast("Any", batches), request, cast("Any", taken), 8).read()
    (lane,) = batches.lanes
    (first,), lane.jobs = lane.jobs, []
    Decoder(model, 5).hear([first])
    assert [one.text for window in taken.windows for one in window] == ["0 from 0"]
    while lane.jobs:
        Decoder(model, 5).hear([lane.jobs.pop()])  # last come, first served
    texts = [one.text for window in taken.windows for one in window]
    assert texts == [f"{index} from {offset}" for index in range(3) for offset in (0, 50)]
    assert taken.ended
