"""How windows are decoded: what is heard again, hotter, and what is silence; with a stub model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from services.transcription.engines.faster_whisper.decoding import (
    FALLBACK,
    Decoding,
    Heard,
    Job,
    Wish,
    compression_ratio,
)
from services.transcription.engines.faster_whisper.model import Decoded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.errors import ServiceError

SILENT = np.zeros((80, 10), dtype=np.float32)


class Model:
    """Says what it is told to, temperature by temperature."""

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
        return [Decoded([ord(one) for one in text], logprob, no_speech) for _ in encoded]

    def text(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))


@dataclass
class Asker:
    wish: Wish = field(
        default_factory=lambda: Wish("transcribe", (), frozenset({"en", "de"}), FALLBACK)
    )
    language: str | None = None
    retries: list[Job] = field(default_factory=list)
    answers: list[Heard] = field(default_factory=list)
    errors: list[ServiceError] = field(default_factory=list)

    def again(self, job: Job) -> None:
        self.retries.append(job)

    def heard(self, heard: Heard) -> None:
        self.answers.append(heard)

    def failed(self, error: ServiceError) -> None:
        self.errors.append(error)


def hear(model: Model, asker: Asker) -> None:
    """Hear one window of an asker to the end."""
    decoding = Decoding(model, 5)  # type: ignore[arg-type]
    decoding.hear([Job(asker, SILENT)])
    while asker.retries:
        decoding.hear([asker.retries.pop()])


def test_a_good_text_is_taken_at_once_with_a_beam() -> None:
    model, asker = Model({0.0: ("good", -0.2, 0.1)}), Asker()
    hear(model, asker)
    assert [one.text.temperature for one in asker.answers] == [0.0]
    assert model.beams == [5]


@pytest.mark.parametrize("bad", [("la " * 50, -0.2, 0.1), ("mumble", -1.5, 0.1)])
def test_what_repeats_or_is_unlikely_is_heard_again_hotter(bad: tuple[str, float, float]) -> None:
    model = Model({0.0: bad, 0.2: bad, 0.4: ("good", -0.3, 0.1)})
    asker = Asker()
    hear(model, asker)
    (answer,) = asker.answers
    assert answer.text.temperature == 0.4
    assert model.encoded == [1], "the encoder's output is kept for the next tries"


def test_where_nothing_is_good_the_likeliest_that_does_not_repeat_is_taken() -> None:
    model = Model(dict.fromkeys(FALLBACK, ("la " * 50, -0.1, 0.1)))
    model.said[0.6] = ("mumble", -1.2, 0.1)
    model.said[0.8] = ("rumble", -1.4, 0.1)
    asker = Asker()
    hear(model, asker)
    assert asker.answers[0].text.temperature == 0.6


def test_silence_is_not_heard_again() -> None:
    model, asker = Model({0.0: ("mumble", -1.5, 0.9)}), Asker()
    hear(model, asker)
    assert asker.answers[0].text.is_silence


def test_likely_text_is_no_silence() -> None:
    model, asker = Model({0.0: ("clear", -0.2, 0.9)}), Asker()
    hear(model, asker)
    assert not asker.answers[0].text.is_silence


def test_a_temperature_that_was_asked_for_is_the_only_one() -> None:
    model = Model({0.7: ("mumble", -1.5, 0.1)})
    asker = Asker(Wish("transcribe", (), model.languages, (0.7,)))
    hear(model, asker)
    assert [one.text.temperature for one in asker.answers] == [0.7]


def test_a_guess_is_greedy() -> None:
    model = Model({0.0: ("mumble", -1.5, 0.1)})
    asker = Asker(Wish("transcribe", (), model.languages, (0.0,), times=False))
    hear(model, asker)
    assert model.beams == [1]
    assert len(asker.answers) == 1


def test_the_language_is_chosen_among_those_asked_for_and_kept() -> None:
    model, asker = Model({0.0: ("good", -0.2, 0.1)}), Asker()
    hear(model, asker)
    assert asker.language == "de", "fr is likelier and was not among them"
    asker.language = "en"
    hear(model, asker)
    assert model.prompts[-1] == [["en", "transcribe", True]]


def test_a_window_in_which_nobody_speaks_tells_no_language_but_its_own() -> None:
    model, asker = Model({0.0: ("good", -0.2, 0.1)}), Asker()
    Decoding(model, 5).hear([Job(asker, SILENT, tells=False)])  # type: ignore[arg-type]
    assert asker.language is None
    assert asker.answers[0].language == "de"


def test_what_is_heard_again_is_heard_in_the_language_it_was_heard_in() -> None:
    model, asker = Model({0.0: ("mumble", -1.5, 0.1), 0.2: ("good", -0.3, 0.1)}), Asker()
    decoding = Decoding(model, 5)  # type: ignore[arg-type]
    decoding.hear([Job(asker, SILENT, tells=False)])
    asker.language = "en"  # another window told it meanwhile
    decoding.hear([asker.retries.pop()])
    assert asker.answers[0].language == "de"


def test_a_batch_that_is_too_large_is_halved() -> None:
    model = Model({0.0: ("good", -0.2, 0.1)})
    model.most = 2
    askers = [Asker() for _ in range(7)]
    Decoding(model, 5).hear([Job(asker, SILENT) for asker in askers])  # type: ignore[arg-type]
    assert all(len(asker.answers) == 1 and not asker.errors for asker in askers)


def test_a_model_that_is_dead_fails_everybody_and_hangs_nobody() -> None:
    model = Model({0.0: ("good", -0.2, 0.1)})
    model.most = 0
    askers = [Asker() for _ in range(5)]
    Decoding(model, 5).hear([Job(asker, SILENT) for asker in askers])  # type: ignore[arg-type]
    assert [[one.code for one in asker.errors] for asker in askers] == [["engine_failed"]] * 5
    assert all(isinstance(asker.errors[0].__cause__, MemoryError) for asker in askers)


def test_one_that_cannot_take_its_answer_fails_alone() -> None:
    class Broken(Asker):
        def heard(self, heard: Heard) -> None:
            raise ValueError(f"no segments can be made of {heard.job.index}")

    model = Model({0.0: ("good", -0.2, 0.1)})
    broken, fine = Broken(), Asker()
    Decoding(model, 5).hear([Job(broken, SILENT), Job(fine, SILENT)])  # type: ignore[arg-type]
    assert broken.errors
    assert fine.answers
    assert not fine.errors


def test_repetition_compresses_well() -> None:
    assert compression_ratio("la " * 100) > 2.4 > compression_ratio("What a day it was.")
