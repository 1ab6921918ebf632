"""How windows are decoded: retries at higher temperatures, and silence; with a stub model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from services.transcription.engines.faster_whisper.checkpoint import Decoded
from services.transcription.engines.faster_whisper.decoder import (
    FALLBACK,
    DecodedWindow,
    Decoder,
    DecodingOptions,
    Job,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.errors import ServiceError

SILENT = np.zeros((80, 10), dtype=np.float32)


class Checkpoint:
    """Returns fixed texts for each temperature."""

    languages = frozenset({"en", "de"})

    def __init__(self, said: dict[float, tuple[str, float, float]]) -> None:
        self.said = said
        self.encoded: list[int] = []
        self.beams: list[int] = []
        self.prompts: list[list[list[Any]]] = []
        self.most = 100

    def encode(self, features: Sequence[Any]) -> Any:
        self.encoded.append(len(features))
        return np.arange(len(features), dtype=np.float32).reshape(-1, 1, 1)

    def language_chances(self, encoded: Any) -> list[dict[str, float]]:
        return [{"fr": 0.9, "de": 0.06, "en": 0.04}] * len(encoded)

    def prompt(self, before: Sequence[int], language: str, task: str, *, times: bool) -> list[Any]:
        return [*before, language, task, times]

    def generate(
        self, encoded: Any, prompts: Any, *, temperature: float, beam_size: int
    ) -> list[Decoded]:
        if len(prompts) > self.most:
            raise MemoryError("out of memory")
        self.beams.append(beam_size)
        self.prompts.append(prompts)
        text, logprob, no_speech = self.said[temperature]
        return [Decoded(temperature, [], text, logprob, no_speech) for _ in encoded]


class Lane:
    """Items in the order they were put."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def put(self, job: Job, *, first: bool = False) -> None:
        self.jobs.insert(0 if first else len(self.jobs), job)

    def close(self) -> None:
        self.jobs.clear()


@dataclass
class Requester:
    options: DecodingOptions = field(
        default_factory=lambda: DecodingOptions("transcribe", (), frozenset({"en", "de"}), FALLBACK)
    )
    language: str | None = None
    lane: Any = field(default_factory=Lane)
    answers: list[DecodedWindow] = field(default_factory=list)
    errors: list[ServiceError] = field(default_factory=list)

    def heard(self, heard: DecodedWindow) -> None:
        self.answers.append(heard)

    def failed(self, error: ServiceError) -> None:
        self.errors.append(error)


def hear(model: Checkpoint, requester: Requester) -> None:
    """Hear one window of a requester to the end."""
    decoder = Decoder(model, 5)  # type: ignore[arg-type]
    decoder.hear([Job(requester, SILENT)])
    while requester.lane.jobs:
        decoder.hear([requester.lane.jobs.pop()])


def test_a_good_text_is_taken_at_once_with_a_beam() -> None:
    model, requester = Checkpoint({0.0: ("good", -0.2, 0.1)}), Requester()
    hear(model, requester)
    assert [one.decoded.temperature for one in requester.answers] == [0.0]
    assert model.beams == [5]


@pytest.mark.parametrize("bad", [("la " * 50, -0.2, 0.1), ("mumble", -1.5, 0.1)])
def test_what_repeats_or_is_unlikely_is_heard_again_hotter(bad: tuple[str, float, float]) -> None:
    model = Checkpoint({0.0: bad, 0.2: bad, 0.4: ("good", -0.3, 0.1)})
    requester = Requester()
    hear(model, requester)
    (answer,) = requester.answers
    assert answer.decoded.temperature == 0.4
    assert model.encoded == [1], "the encoder's output is kept for the next attempts"


def test_where_nothing_is_good_the_likeliest_that_does_not_repeat_is_taken() -> None:
    model = Checkpoint(dict.fromkeys(FALLBACK, ("la " * 50, -0.1, 0.1)))
    model.said[0.6] = ("mumble", -1.2, 0.1)
    model.said[0.8] = ("rumble", -1.4, 0.1)
    requester = Requester()
    hear(model, requester)
    assert requester.answers[0].decoded.temperature == 0.6


def test_silence_is_not_heard_again() -> None:
    model, requester = Checkpoint({0.0: ("mumble", -1.5, 0.9)}), Requester()
    hear(model, requester)
    assert requester.answers[0].decoded.is_silence


def test_likely_text_is_no_silence() -> None:
    model, requester = Checkpoint({0.0: ("clear", -0.2, 0.9)}), Requester()
    hear(model, requester)
    assert not requester.answers[0].decoded.is_silence


def test_a_temperature_that_was_asked_for_is_the_only_one() -> None:
    model = Checkpoint({0.7: ("mumble", -1.5, 0.1)})
    requester = Requester(DecodingOptions("transcribe", (), model.languages, (0.7,)))
    hear(model, requester)
    assert [one.decoded.temperature for one in requester.answers] == [0.7]


def test_a_guess_is_greedy() -> None:
    model = Checkpoint({0.0: ("mumble", -1.5, 0.1)})
    requester = Requester(DecodingOptions("transcribe", (), model.languages, (0.0,), times=False))
    hear(model, requester)
    assert model.beams == [1]
    assert len(requester.answers) == 1


def test_the_language_is_chosen_among_those_asked_for_and_kept() -> None:
    model, requester = Checkpoint({0.0: ("good", -0.2, 0.1)}), Requester()
    hear(model, requester)
    assert requester.language == "de", "fr is likelier and was not among them"
    requester.language = "en"
    hear(model, requester)
    assert model.prompts[-1] == [["en", "transcribe", True]]


def test_a_window_in_which_nobody_speaks_tells_no_language_but_its_own() -> None:
    model, requester = Checkpoint({0.0: ("good", -0.2, 0.1)}), Requester()
    Decoder(model, 5).hear([Job(requester, SILENT, tells=False)])  # type: ignore[arg-type]
    assert requester.language is None
    assert requester.answers[0].language == "de"


def test_what_is_heard_again_is_heard_in_the_language_it_was_heard_in() -> None:
    model, requester = (
        Checkpoint({0.0: ("mumble", -1.5, 0.1), 0.2: ("good", -0.3, 0.1)}),
        Requester(),
    )
    decoder = Decoder(model, 5)  # type: ignore[arg-type]
    decoder.hear([Job(requester, SILENT, tells=False)])
    requester.language = "en"  # another window told it meanwhile
    decoder.hear([requester.lane.jobs.pop()])
    assert requester.answers[0].language == "de"


def test_a_batch_that_is_too_large_is_halved() -> None:
    model = Checkpoint({0.0: ("good", -0.2, 0.1)})
    model.most = 2
    requesters = [Requester() for _ in range(7)]
    Decoder(model, 5).hear([Job(requester, SILENT) for requester in requesters])  # type: ignore[arg-type]
    assert all(len(requester.answers) == 1 and not requester.errors for requester in requesters)


def test_a_model_that_is_dead_fails_everybody_and_hangs_nobody() -> None:
    model = Checkpoint({0.0: ("good", -0.2, 0.1)})
    model.most = 0
    requesters = [Requester() for _ in range(5)]
    Decoder(model, 5).hear([Job(requester, SILENT) for requester in requesters])  # type: ignore[arg-type]
    assert [[one.code for one in requester.errors] for requester in requesters] == [
        ["engine_failed"]
    ] * 5
    assert all(isinstance(requester.errors[0].__cause__, MemoryError) for requester in requesters)


def test_one_that_cannot_take_its_answer_fails_alone() -> None:
    class Broken(Requester):
        def heard(self, heard: DecodedWindow) -> None:
            raise ValueError(f"no segments can be made of {heard.job.index}")

    model = Checkpoint({0.0: ("good", -0.2, 0.1)})
    broken, fine = Broken(), Requester()
    Decoder(model, 5).hear([Job(broken, SILENT), Job(fine, SILENT)])  # type: ignore[arg-type]
    assert broken.errors
    assert fine.answers
    assert not fine.errors


def test_repetition_compresses_well() -> None:
    assert Decoded(0.0, [], "la " * 100, -0.1, 0.1).repeats
    assert not Decoded(0.0, [], "What a day it was.", -0.1, 0.1).repeats
