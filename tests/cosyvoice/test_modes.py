"""Every mode of both families, streamed and in one pass; what cannot be said is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from services.errors import NotFoundError, ServiceError
from tests.cosyvoice.speaking import (
    ANNA,
    BEN,
    LONG,
    UNTOLD,
    active,
    asked,
    conversion,
    frames,
    spoken,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.audio.pcm import Samples
    from services.speech.engines.cosyvoice.engine import CosyVoiceEngine

    EngineOf = Callable[..., CosyVoiceEngine]

FAMILIES = pytest.mark.parametrize("family", [2, 3])
BOTH = pytest.mark.parametrize("one_pass", [False, True], ids=["streaming", "one pass"])


def is_speech(audio: Samples) -> bool:
    """Return whether it is finite, heard, and does not clip."""
    return bool(np.isfinite(audio).all() and 0.01 < np.abs(audio).max() < 1.0)


def differ(one: Samples, other: Samples) -> bool:
    size = min(one.size, other.size)
    return one.size != other.size or float(np.abs(one[:size] - other[:size]).max()) > 0.01


@BOTH
@FAMILIES
async def test_a_recording_and_its_words_are_spoken_like(
    engine_of: EngineOf, family: int, *, one_pass: bool
) -> None:
    engine = engine_of(family)
    anna, ben, told_otherwise = [
        await spoken(engine, reference=reference, one_pass=one_pass)
        for reference in (ANNA, BEN, replace(ANNA, text="Other words than those."))
    ]
    assert is_speech(anna)
    assert differ(anna, ben)
    assert differ(anna, told_otherwise)


@BOTH
@FAMILIES
async def test_a_recording_is_spoken_like_without_its_words(
    engine_of: EngineOf, decoded: Any, family: int, *, one_pass: bool
) -> None:
    engine = engine_of(family)
    tokens = decoded(engine)
    untold = await spoken(engine, "你好世界。", reference=UNTOLD, one_pass=one_pass)
    await spoken(engine, "你好世界。", reference=ANNA, one_pass=one_pass)

    assert is_speech(untold)
    assert tokens[0] != tokens[1]


@BOTH
@FAMILIES
async def test_an_instruction_changes_what_is_said_not_only_what_it_sounds_like(
    engine_of: EngineOf, decoded: Any, family: int, *, one_pass: bool
) -> None:
    # Upstream issue 1400: with a registered voice the instruction was dropped.
    engine = engine_of(family)
    tokens = decoded(engine)
    for instructions in (None, "Speak slowly and sadly.", "Shout.", "Shout."):
        audio = await spoken(engine, instructions=instructions, one_pass=one_pass)
        assert is_speech(audio)

    plain, sad, shouted, again = tokens
    assert plain != sad != shouted
    assert shouted == again


@FAMILIES
async def test_an_instruction_holds_for_a_registered_voice(
    engine_of: EngineOf, decoded: Any, tmp_path: Any, family: int
) -> None:
    engine = engine_of(family)
    anna = replace(ANNA, id="voice_anna", features=tmp_path)
    await engine.prepare(anna)
    tokens = decoded(engine)
    for reference in (anna, ANNA):
        await spoken(engine, reference=reference)
        await spoken(engine, reference=reference, instructions="Shout.")
    engine.forget("voice_anna")

    assert tokens[0] != tokens[1]
    assert tokens[:2] == tokens[2:]


@BOTH
@FAMILIES
async def test_a_recording_is_said_again_with_another_voice(
    engine_of: EngineOf, family: int, *, one_pass: bool
) -> None:
    engine = engine_of(family)
    anna, ben = [
        np.concatenate(await frames(engine, conversion(reference=reference, one_pass=one_pass)))
        for reference in (ANNA, BEN)
    ]
    assert is_speech(anna)
    assert anna.size / engine.sample_rate_hz == pytest.approx(2.0, abs=0.1)
    assert differ(anna, ben)


@FAMILIES
async def test_a_conversion_at_twice_the_speed_takes_half_the_time(
    engine_of: EngineOf, family: int
) -> None:
    engine = engine_of(family)
    for one_pass in (False, True):
        audio = np.concatenate(await frames(engine, conversion(speed=2.0, one_pass=one_pass)))
        assert audio.size / engine.sample_rate_hz == pytest.approx(1.0, abs=0.1)


@BOTH
@pytest.mark.parametrize("speed", [0.5, 4.0])
@FAMILIES
async def test_speed_is_heeded_in_pieces_and_in_one_pass(
    engine_of: EngineOf, family: int, speed: float, *, one_pass: bool
) -> None:
    engine = engine_of(family)
    own = await spoken(engine, one_pass=one_pass)
    changed = await spoken(engine, one_pass=one_pass, speed=speed)

    assert is_speech(changed)
    assert changed.size * speed / own.size == pytest.approx(1.0, abs=0.06)


@FAMILIES
async def test_pieces_come_before_the_whole_is_made(engine_of: EngineOf, family: int) -> None:
    engine = engine_of(family)
    pieces = await frames(engine, asked(engine, LONG))
    whole = await frames(engine, asked(engine, LONG, one_pass=True))

    assert len(whole) == 1
    assert len(pieces) > 1
    assert sum(piece.size for piece in pieces) == whole[0].size
    assert pieces[0].size / engine.sample_rate_hz < 2.5
    assert pieces[0].size < whole[0].size


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"text": "   "}, "input", "blank_input"),
        ({"text": "...!? —"}, "input", "blank_input"),
        ({"text": "Hi<|endofprompt|>"}, "input", "control_token"),
        ({"instructions": "a<|endofprompt|>"}, "instructions", "control_token"),
        ({"reference": replace(ANNA, text="<|im_start|>")}, "ref_text", "control_token"),
        ({"language": "tlh"}, "language", "unsupported_language"),
    ],
)
async def test_what_cannot_be_said_is_refused_before_any_audio(
    engine_of: EngineOf, fields: dict[str, Any], param: str, code: str
) -> None:
    engine = engine_of(2)
    await refused(engine, asked(engine, **fields), param, code)


@FAMILIES
async def test_an_unknown_voice_is_not_found(engine_of: EngineOf, family: int) -> None:
    engine = engine_of(family)
    with pytest.raises(NotFoundError) as error:
        engine.check(asked(engine, voice="nobody"))
    assert (error.value.param, error.value.code) == ("voice", "voice_not_found")


async def refused(engine: CosyVoiceEngine, request: Any, param: str, code: str) -> None:
    """Expect `check` to refuse, and `synthesise` likewise without any work."""
    with pytest.raises(ServiceError) as error:
        engine.check(request)
    assert (error.value.param, error.value.code) == (param, code)
    made = engine.synthesise(request)
    with pytest.raises(type(error.value)):
        await anext(made)
    assert active(engine) == 0
