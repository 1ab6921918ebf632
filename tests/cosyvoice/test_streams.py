"""A stream has the same audio as one pass, but sooner, and is independent of other requests."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from services.speech.engines.cosyvoice.stages import Stages
from tests.cosyvoice.speaking import (
    ANNA,
    BEN,
    LONG,
    LONGER,
    SHORT,
    THREE,
    active,
    apart,
    asked,
    conversion,
    frames,
    spoken,
    within,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from services.speech.engines.cosyvoice.engine import CosyVoiceEngine

    EngineOf = Callable[..., CosyVoiceEngine]

FAMILIES = pytest.mark.parametrize("family", [2, 3])


@FAMILIES
async def test_a_stream_is_the_audio_of_one_pass(engine_of: EngineOf, family: int) -> None:
    engine = engine_of(family)
    pieces = await frames(engine, asked(engine, LONG))
    whole = await spoken(engine, LONG, one_pass=True)

    assert len(pieces) > 1
    assert apart(np.concatenate(pieces), whole) < 1e-3


@FAMILIES
async def test_a_streamed_conversion_is_that_of_one_pass(engine_of: EngineOf, family: int) -> None:
    engine = engine_of(family)
    one, other = [
        np.concatenate(await frames(engine, conversion(one_pass=one_pass)))
        for one_pass in (False, True)
    ]
    assert apart(one, other) < 1e-3


@FAMILIES
async def test_the_same_seed_makes_the_same_audio_and_another_one_other_audio(
    engine_of: EngineOf, family: int
) -> None:
    engine = engine_of(family)
    for one_pass in (False, True):
        one, again, other = [
            await spoken(engine, one_pass=one_pass, seed=seed) for seed in (1, 1, 2)
        ]
        assert np.array_equal(one, again)
        assert not np.array_equal(one, other)


@FAMILIES
async def test_without_a_seed_no_two_answers_are_the_same(engine_of: EngineOf, family: int) -> None:
    engine = engine_of(family)
    one, other = [await spoken(engine, seed=None) for _ in range(2)]
    assert not np.array_equal(one, other)


@FAMILIES
async def test_each_of_eight_streams_at_once_is_what_it_is_alone(
    engine_of: EngineOf, family: int
) -> None:
    engine = engine_of(family)
    different = [
        asked(engine, text, seed=seed, reference=reference)
        for seed, (text, reference) in enumerate([(LONG, ANNA), (SHORT, BEN), (SHORT, ANNA)])
    ]
    alone = [np.concatenate(await frames(engine, request)) for request in different]
    order = [0, 1, 2, 1, 2, 1, 2, 1]
    at_once = await asyncio.gather(*(frames(engine, different[which]) for which in order))

    for which, pieces in zip(order, at_once, strict=True):
        assert apart(np.concatenate(pieces), alone[which]) < 1e-4
    assert active(engine) == 0


@FAMILIES
async def test_segments_follow_each_other_without_silence_or_a_click(
    engine_of: EngineOf, decoded: Any, family: int
) -> None:
    engine = engine_of(family)
    tokens = decoded(engine)
    pieces = await frames(engine, asked(engine, f"{LONGER} {THREE}", one_pass=True))

    assert len(pieces) > 1
    assert len(tokens) == len(pieces)  # one pass a segment, in order
    rate_hz = engine.sample_rate_hz
    for piece, made in zip(pieces, tokens, strict=True):
        # All of a segment's audio and nothing beside it.
        assert piece.size / rate_hz == pytest.approx(len(made) / 25, abs=0.04)
        window = rate_hz // 50
        levels = np.abs(piece[: piece.size // window * window]).reshape(-1, window).max(axis=1)
        assert levels.min() > 0.003  # tiny models are never silent


@FAMILIES
async def test_text_that_is_still_written_is_spoken_meanwhile(
    engine_of: EngineOf, family: int
) -> None:
    engine = engine_of(family)
    heard = asyncio.Event()
    words = THREE.split(" ")

    async def written() -> AsyncIterator[str]:
        for word in words[: len(words) * 2 // 3]:
            yield f"{word} "
        await heard.wait()  # the rest is written once there is audio
        for word in words[len(words) * 2 // 3 :]:
            yield f"{word} "

    samples = 0
    async with asyncio.timeout(20):
        async for frame in engine.synthesise(asked(engine, written())):
            if not heard.is_set():
                first = frame.size
            heard.set()
            samples += frame.size

    assert samples > 1.5 * first


@FAMILIES
async def test_nothing_to_say_in_what_is_written_ends_without_audio(
    engine_of: EngineOf, family: int
) -> None:
    engine = engine_of(family)

    async def written() -> AsyncIterator[str]:
        for piece in (" ", "...", " —"):
            yield piece

    assert await frames(engine, asked(engine, written())) == []


@FAMILIES
async def test_how_many_streams_there_may_be_is_found_again_while_it_speaks(
    engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch, family: int
) -> None:
    from services.speech.engines.cosyvoice import stages  # noqa: PLC0415  torch

    engine = engine_of(family)
    monkeypatch.setattr(stages, "_MEASURED_FOR_S", 0.0)
    monkeypatch.setattr(stages, "streams_held", lambda *_: 23)
    await spoken(engine)
    assert await asyncio.to_thread(within, 60, lambda: engine.streams == 23)
    monkeypatch.setattr(stages, "streams_held", lambda *_: 0)
    await spoken(engine)
    assert await asyncio.to_thread(within, 60, lambda: engine.streams == 1)


def test_pieces_of_one_utterance_sound_in_their_order_whatever_their_deadlines() -> None:
    """A first piece may be due later than the second: nobody waits for more than it yet."""
    one, other = object(), object()
    sounding = [
        SimpleNamespace(utterance=one, due_s=1.5),
        SimpleNamespace(utterance=one, due_s=1.0),
        SimpleNamespace(utterance=other, due_s=1.2),
    ]
    given: list[Any] = []
    stages = SimpleNamespace(
        _changed=threading.Condition(),
        _sounding=list(sounding),
        _wait_for=lambda find: find(),
        _sounded=lambda: iter(()),
        _give=given.append,
    )
    for _ in sounding:
        Stages._sound(cast("Any", stages))
    assert given == [sounding[2], sounding[0], sounding[1]]
