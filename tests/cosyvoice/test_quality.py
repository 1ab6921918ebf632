"""What came out wrong is made again, and words are said as they are spelt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from services.speech.engines.cosyvoice import tokens
from services.speech.engines.cosyvoice.prompt import Prompt
from services.speech.engines.cosyvoice.text import Lexicon
from services.speech.engines.protocol import VoiceReference
from tests.cosyvoice.speaking import LONG, SHORT, UNTOLD, apart, sound, spoken

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.speech.engines.cosyvoice.engine import CosyVoiceEngine

    EngineOf = Callable[..., CosyVoiceEngine]

FAMILIES = pytest.mark.parametrize("family", [2, 3])


def counted() -> float:
    return REGISTRY.get_sample_value("bentovox_segments_said_again_total") or 0.0


@FAMILIES
async def test_a_segment_of_absurd_length_is_said_again_once_and_counted(
    engine_of: EngineOf, decoded: Any, monkeypatch: pytest.MonkeyPatch, family: int
) -> None:
    engine = engine_of(family)
    monkeypatch.setattr(tokens, "_ABSURD", 1000)
    said, before = decoded(engine), counted()
    heard = await spoken(engine, one_pass=True)

    first, second = said
    assert first != second
    assert counted() == before + 1
    assert heard.size / engine.sample_rate_hz == pytest.approx(len(second) / 25, abs=0.04)
    np.testing.assert_array_equal(heard, await spoken(engine, one_pass=True))


@FAMILIES
async def test_a_segment_at_another_pace_than_the_recordings_is_said_again(
    engine_of: EngineOf, decoded: Any, monkeypatch: pytest.MonkeyPatch, family: int
) -> None:
    engine = engine_of(family)
    monkeypatch.setattr(tokens, "_OFF_PACE", 0.01)  # none is the recording's
    said = decoded(engine)
    told = VoiceReference(sound(1), 24_000, text=LONG)
    await spoken(engine, LONG, reference=told, one_pass=True)
    assert len(said) == 2
    await spoken(engine, LONG, reference=UNTOLD, one_pass=True)
    await spoken(
        engine, LONG, reference=VoiceReference(sound(1), 24_000, text="Hi."), one_pass=True
    )
    assert len(said) == 4


@pytest.mark.parametrize(
    ("made", "wrong"), [(33, True), (34, False), (60, False), (108, False), (109, True)]
)
def test_half_a_text_and_one_said_twice_are_told_by_the_recordings_pace(
    monkeypatch: pytest.MonkeyPatch, made: int, *, wrong: bool
) -> None:
    monkeypatch.setattr(tokens, "_OFF_PACE", 1.8)

    def line(pace: float, size: int = 10) -> tokens.Line:
        given: Any = Prompt(None, pace=pace)  # type: ignore[arg-type]
        sampler: Any = None
        return tokens.Line(given, range(size), sampler, [0] * made)

    assert line(6.0).is_absurd is wrong
    assert not line(0.0).is_absurd
    assert not line(made / 4, size=7).is_absurd  # too short a text to tell


@FAMILIES
@pytest.mark.parametrize("why", ["a stream", "a usual length"])
async def test_a_stream_and_what_has_a_usual_length_are_said_once(
    engine_of: EngineOf, decoded: Any, monkeypatch: pytest.MonkeyPatch, family: int, why: str
) -> None:
    engine = engine_of(family)
    one_pass = why != "a stream"
    monkeypatch.setattr(tokens, "_ABSURD", 2.5 if one_pass else 1000)
    monkeypatch.setattr(tokens, "_LEAST", 4)
    said = decoded(engine)
    for seed in range(5):
        await spoken(engine, seed=seed, one_pass=one_pass)
    assert len(said) == 5


@FAMILIES
async def test_no_word_is_cut_at_the_end_whatever_the_length(
    engine_of: EngineOf, decoded: Any, family: int
) -> None:
    engine = engine_of(family)
    said = decoded(engine)
    for words in range(4, 16):
        text = " ".join(LONG.split()[:words])
        heard = await spoken(engine, text, seed=words)
        assert heard.size / engine.sample_rate_hz == pytest.approx(len(said[-1]) / 25, abs=0.04)
    assert len(said) == 12


async def test_a_word_of_the_lexicon_is_said_as_it_is_spelt(
    engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(2)
    spelt = await spoken(engine, "Good evening to you.")
    monkeypatch.setattr(engine, "_lexicon", Lexicon({"Morning": "evening"}))
    assert apart(await spoken(engine, SHORT), spelt) < 1e-4
