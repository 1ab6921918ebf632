"""Every mode of every family, streamed and in one pass; modes that a model lacks are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from services.errors import InvalidRequestError, NotFoundError, ServiceError
from services.speech.engines.protocol import Capability
from tests.cosyvoice.speaking import (
    ANNA,
    BEN,
    LONG,
    LONGER,
    UNTOLD,
    asked,
    conversion,
    frames,
    spoken,
)
from tests.cosyvoice.tiny import PRESETS

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.audio.pcm import Samples
    from services.speech.engines.cosyvoice.engine import CosyVoiceEngine

    EngineOf = Callable[..., CosyVoiceEngine]

CLONING = [(1, "base"), (2, "base"), (3, "base")]
PRESET = [(1, "sft"), (1, "instruct")]
INSTRUCTED = [(1, "instruct"), (2, "base"), (3, "base")]
ALL = [(1, "base"), (1, "sft"), (1, "instruct"), (2, "base"), (3, "base")]
BOTH = pytest.mark.parametrize("one_pass", [False, True], ids=["streaming", "one pass"])


def models(which: list[tuple[int, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("family", "kind"), which)


def is_speech(audio: Samples) -> bool:
    """Return whether it is finite, heard, and does not clip."""
    return bool(np.isfinite(audio).all() and 0.01 < np.abs(audio).max() < 1.0)


def differ(one: Samples, other: Samples) -> bool:
    size = min(one.size, other.size)
    return one.size != other.size or float(np.abs(one[:size] - other[:size]).max()) > 0.01


@BOTH
@models(PRESET)
async def test_each_preset_speaks_with_a_voice_of_its_own(
    engine_of: EngineOf, family: int, kind: str, *, one_pass: bool
) -> None:
    engine = engine_of(family, kind)
    assert [voice.id for voice in engine.voices()] == sorted(PRESETS)
    one, other = [
        await spoken(engine, "你好世界。", voice=name, one_pass=one_pass) for name in PRESETS[:2]
    ]
    assert is_speech(one)
    assert differ(one, other)


@BOTH
@models(CLONING)
async def test_a_recording_and_its_words_are_spoken_like(
    engine_of: EngineOf, family: int, kind: str, *, one_pass: bool
) -> None:
    engine = engine_of(family, kind)
    anna, ben, told_otherwise = [
        await spoken(engine, reference=reference, one_pass=one_pass)
        for reference in (ANNA, BEN, replace(ANNA, text="Other words than those."))
    ]
    assert is_speech(anna)
    assert differ(anna, ben)
    assert differ(anna, told_otherwise)


@BOTH
@models(CLONING)
async def test_a_recording_is_spoken_like_without_its_words(
    engine_of: EngineOf, decoded: Any, family: int, kind: str, *, one_pass: bool
) -> None:
    engine = engine_of(family, kind)
    tokens = decoded(engine)
    untold = await spoken(engine, "你好世界。", reference=UNTOLD, one_pass=one_pass)
    await spoken(engine, "你好世界。", reference=ANNA, one_pass=one_pass)

    assert is_speech(untold)
    assert tokens[0] != tokens[1]


@BOTH
@models(INSTRUCTED)
async def test_an_instruction_changes_what_is_said_not_only_what_it_sounds_like(
    engine_of: EngineOf, decoded: Any, family: int, kind: str, *, one_pass: bool
) -> None:
    # Upstream issue 1400: with a registered voice the instruction was dropped.
    engine = engine_of(family, kind)
    who = {"voice": PRESETS[0]} if kind == "instruct" else {"reference": ANNA}
    tokens = decoded(engine)
    for instructions in (None, "Speak slowly and sadly.", "Shout.", "Shout."):
        audio = await spoken(engine, instructions=instructions, one_pass=one_pass, **who)
        assert is_speech(audio)

    plain, sad, shouted, again = tokens
    assert plain != sad != shouted
    assert shouted == again


@models(INSTRUCTED[1:])
async def test_an_instruction_holds_for_a_registered_voice(
    engine_of: EngineOf, decoded: Any, tmp_path: Any, family: int, kind: str
) -> None:
    engine = engine_of(family, kind)
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
@models(CLONING)
async def test_a_recording_is_said_again_with_another_voice(
    engine_of: EngineOf, family: int, kind: str, *, one_pass: bool
) -> None:
    engine = engine_of(family, kind)
    anna, ben = [
        np.concatenate(await frames(engine, conversion(reference=reference, one_pass=one_pass)))
        for reference in (ANNA, BEN)
    ]
    assert is_speech(anna)
    assert anna.size / engine.sample_rate_hz == pytest.approx(2.0, abs=0.1)
    assert differ(anna, ben)


@models(CLONING)
async def test_a_conversion_at_twice_the_speed_takes_half_the_time(
    engine_of: EngineOf, family: int, kind: str
) -> None:
    engine = engine_of(family, kind)
    for one_pass in (False, True):
        audio = np.concatenate(await frames(engine, conversion(speed=2.0, one_pass=one_pass)))
        assert audio.size / engine.sample_rate_hz == pytest.approx(1.0, abs=0.1)


@BOTH
@pytest.mark.parametrize("speed", [0.5, 4.0])
@models([(1, "sft"), (2, "base"), (3, "base")])
async def test_speed_is_heeded_in_pieces_and_in_one_pass(
    engine_of: EngineOf, family: int, kind: str, speed: float, *, one_pass: bool
) -> None:
    engine = engine_of(family, kind)
    own = await spoken(engine, one_pass=one_pass)
    changed = await spoken(engine, one_pass=one_pass, speed=speed)

    assert is_speech(changed)
    assert changed.size * speed / own.size == pytest.approx(1.0, abs=0.06)


@models(ALL)
async def test_pieces_come_before_the_whole_is_made(
    engine_of: EngineOf, family: int, kind: str
) -> None:
    engine = engine_of(family, kind)
    text = LONGER if family == 1 else LONG
    pieces = await frames(engine, asked(engine, text))
    whole = await frames(engine, asked(engine, text, one_pass=True))

    assert len(whole) == 1
    assert len(pieces) > 1
    assert sum(piece.size for piece in pieces) == whole[0].size
    assert pieces[0].size / engine.sample_rate_hz < 2.5
    assert pieces[0].size < whole[0].size


@models(ALL)
async def test_what_a_model_can_do_is_what_its_checkpoint_was_made_for(
    engine_of: EngineOf, family: int, kind: str
) -> None:
    can = engine_of(family, kind).capabilities
    assert (Capability.REFERENCE in can) == ((family, kind) in CLONING)
    assert (Capability.CONVERSION in can) == ((family, kind) in CLONING)
    assert (Capability.INSTRUCTIONS in can) == ((family, kind) in INSTRUCTED)
    assert can >= {Capability.SEED, Capability.LANGUAGE}


@pytest.mark.parametrize(
    ("family", "kind", "fields", "param"),
    [
        (1, "base", {"instructions": "Shout.", "reference": ANNA}, "instructions"),
        (1, "sft", {"instructions": "Shout."}, "instructions"),
        (1, "sft", {"reference": ANNA}, "ref_audio"),
        (1, "instruct", {"reference": ANNA}, "ref_audio"),
    ],
)
async def test_a_mode_that_a_model_lacks_is_refused_before_any_audio(
    engine_of: EngineOf, family: int, kind: str, fields: dict[str, Any], param: str
) -> None:
    engine = engine_of(family, kind)
    await refused(engine, asked(engine, **fields), param, "unsupported_parameter")


@models(PRESET)
async def test_a_model_that_clones_no_voice_neither_prepares_nor_converts_one(
    engine_of: EngineOf, family: int, kind: str
) -> None:
    engine = engine_of(family, kind)
    with pytest.raises(InvalidRequestError) as error:
        await engine.prepare(ANNA)
    assert (error.value.param, error.value.code) == ("audio_sample", "unsupported_parameter")
    with pytest.raises(InvalidRequestError) as error:
        engine.check_conversion(conversion())
    assert (error.value.param, error.value.code) == ("voice", "unsupported_parameter")
    with pytest.raises(InvalidRequestError):
        await frames(engine, conversion())


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"text": "   "}, "input", "blank_input"),
        ({"text": "...!? —"}, "input", "blank_input"),
        ({"text": "Hi<|endofprompt|>"}, "input", "control_token"),
        ({"instructions": "a<|endofprompt|>"}, "instructions", "control_token"),
        ({"reference": replace(ANNA, text="<|im_start|>")}, "ref_text", "control_token"),
        ({"language": "tlh"}, "language", "unsupported_language"),
        ({"speed": 0.2}, "speed", "invalid_value"),
        ({"speed": 4.1}, "speed", "invalid_value"),
    ],
)
async def test_what_cannot_be_said_is_refused_before_any_audio(
    engine_of: EngineOf, fields: dict[str, Any], param: str, code: str
) -> None:
    engine = engine_of(2)
    await refused(engine, asked(engine, **fields), param, code)


@models(ALL)
async def test_an_unknown_voice_is_not_found(engine_of: EngineOf, family: int, kind: str) -> None:
    engine = engine_of(family, kind)
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
    assert engine.active == 0
