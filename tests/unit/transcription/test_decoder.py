"""How windows are decoded: retries at higher temperatures, and silence; with a stub model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from services.transcription.engines.faster_whisper.checkpoint import Decoded
from services.transcription.engines.faster_whisper.decoder import (
    FALLBACK,
    DecodedWindow,
    Job,
    decode,
    decoded_well,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

SILENT = np.zeros((80, 10), dtype=np.float32)
LANGUAGES = frozenset({"en", "de"})


class Checkpoint:
    """Returns fixed texts for each temperature."""

    def __init__(self, said: dict[float, tuple[str, float, float]]) -> None:
        self.said = said
        self.encoded: list[int] = []
        self.beams: list[int] = []
        self.prompts: list[list[list[Any]]] = []
        self.asked = 0

    def encode(self, features: Sequence[Any]) -> Any:
        self.encoded.append(len(features))
        return np.arange(len(features), dtype=np.float32).reshape(-1, 1, 1)

    def language_chances(self, encoded: Any) -> list[dict[str, float]]:
        self.asked += 1
        return [{"fr": 0.9, "de": 0.06, "en": 0.04}] * len(encoded)

    def prompt(self, before: Sequence[int], language: str, task: str, *, times: bool) -> list[Any]:
        return [*before, language, task, times]

    def generate(
        self, encoded: Any, prompts: Any, *, temperature: float, beam_size: int
    ) -> list[Decoded]:
        self.beams.append(beam_size)
        self.prompts.append(prompts)
        text, logprob, no_speech = self.said[temperature]
        return [Decoded(temperature, [], text, logprob, no_speech) for _ in encoded]


async def heard(
    model: Checkpoint, temperatures: Sequence[float] = FALLBACK, **job: Any
) -> DecodedWindow:
    """Hear one window to the end."""

    async def ask(one: Job, *_: object) -> DecodedWindow:
        (found,) = decode(cast("Any", model), 5, [one])
        return found

    return await decoded_well(Job(SILENT, (), LANGUAGES, **job), temperatures, ask)


async def test_a_good_text_is_taken_at_once_with_a_beam() -> None:
    model = Checkpoint({0.0: ("good", -0.2, 0.1)})
    assert (await heard(model)).decoded.temperature == 0.0
    assert model.beams == [5]


@pytest.mark.parametrize("bad", [("la " * 50, -0.2, 0.1), ("mumble", -1.5, 0.1)])
async def test_what_repeats_or_is_unlikely_is_heard_again_hotter(
    bad: tuple[str, float, float],
) -> None:
    model = Checkpoint({0.0: bad, 0.2: bad, 0.4: ("good", -0.3, 0.1)})
    assert (await heard(model)).decoded.temperature == 0.4
    assert model.encoded == [1], "the encoder's output is kept for the next attempts"


async def test_where_nothing_is_good_the_likeliest_that_does_not_repeat_is_taken() -> None:
    model = Checkpoint(dict.fromkeys(FALLBACK, ("la " * 50, -0.1, 0.1)))
    model.said[0.6] = ("mumble", -1.2, 0.1)
    model.said[0.8] = ("rumble", -1.4, 0.1)
    assert (await heard(model)).decoded.temperature == 0.6


async def test_silence_is_not_heard_again() -> None:
    assert (await heard(Checkpoint({0.0: ("mumble", -1.5, 0.9)}))).decoded.is_silence


async def test_likely_text_is_no_silence() -> None:
    assert not (await heard(Checkpoint({0.0: ("clear", -0.2, 0.9)}))).decoded.is_silence


async def test_a_temperature_that_was_asked_for_is_the_only_one() -> None:
    model = Checkpoint({0.7: ("mumble", -1.5, 0.1)})
    assert (await heard(model, (0.7,))).decoded.temperature == 0.7


async def test_a_guess_is_greedy() -> None:
    model = Checkpoint({0.0: ("mumble", -1.5, 0.1)})
    await heard(model, (0.0,), times=False)
    assert model.beams == [1]


async def test_the_language_is_chosen_among_those_asked_for_unless_it_is_known() -> None:
    model = Checkpoint({0.0: ("good", -0.2, 0.1)})
    assert (await heard(model)).language == "de", "fr is likelier and was not among them"
    assert (await heard(model, language="en")).language == "en"
    assert model.prompts[-1] == [["en", "transcribe", True]]


async def test_what_is_heard_again_is_heard_in_the_language_it_was_heard_in() -> None:
    model = Checkpoint({0.0: ("mumble", -1.5, 0.1), 0.2: ("good", -0.3, 0.1)})
    await heard(model)
    assert model.prompts == [[["de", "transcribe", True]]] * 2
    assert model.asked == 1, "its language is detected once"


def test_a_batch_may_have_known_and_unknown_languages() -> None:
    model = Checkpoint({0.0: ("good", -0.2, 0.1)})
    jobs = [Job(SILENT, (), LANGUAGES, language) for language in ("en", None)]
    assert [one.language for one in decode(cast("Any", model), 5, jobs)] == ["en", "de"]


def test_repetition_compresses_well() -> None:
    assert Decoded(0.0, [], "la " * 100, -0.1, 0.1).repeats
    assert not Decoded(0.0, [], "What a day it was.", -0.1, 0.1).repeats
