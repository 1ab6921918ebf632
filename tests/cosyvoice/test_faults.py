"""An error in a request ends that request at once and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from services.errors import EngineError, UnavailableError
from services.handover import Handover
from services.speech.engines.cosyvoice.engine import CosyVoiceEngine
from services.speech.engines.cosyvoice.utterance import Utterance
from tests.cosyvoice.conftest import CODE
from tests.cosyvoice.speaking import (
    ANNA,
    LONG,
    LONGER,
    SHORT,
    THREE,
    asked,
    frames,
    spoken,
    within,
    working,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    EngineOf = Callable[..., CosyVoiceEngine]

FAMILIES = pytest.mark.parametrize("family", [1, 2, 3])
BOTH = pytest.mark.parametrize("one_pass", [False, True], ids=["streaming", "one pass"])
AT_ONCE_S = 10.0  # of work that would go on for ever; a busy machine has its own idea of soon


class BrokenError(Exception):
    """Any exception that upstream's code may raise."""


@pytest.fixture(autouse=True)
def _unlogged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep errors out of pytest's record of the log: their tracebacks hold on to the request."""
    monkeypatch.setattr(logging.getLogger("bentovox.speech"), "disabled", True)


@pytest.fixture
def after_tokens(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Return `after_tokens(engine, count)`: its language model breaks after so many, and when."""

    def broken(engine: CosyVoiceEngine, count: int) -> list[float]:
        lm, when = type(engine._checkpoint.lm), []  # type: ignore[union-attr]
        inference = lm.inference

        def inferred(*given: Any, **named: Any) -> Iterator[int]:
            for at, token in enumerate(inference(*given, **named)):
                if at == count:
                    when.append(time.monotonic())
                    raise BrokenError
                yield token

        monkeypatch.setattr(lm, "inference", inferred)
        return when

    return broken


@pytest.fixture
def in_audio(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Return `in_audio(engine, count)`: its flow breaks after so many chunks, and when."""

    def broken(engine: CosyVoiceEngine, count: int) -> list[float]:
        flow = type(engine._checkpoint.vocoder.flow)  # type: ignore[union-attr]
        inference, when, calls = flow.inference, [], []

        def inferred(*given: Any, **named: Any) -> Any:
            calls.append(None)
            if len(calls) > count:
                when.append(time.monotonic())
                raise BrokenError
            return inference(*given, **named)

        monkeypatch.setattr(flow, "inference", inferred)
        return when

    return broken


async def rests(engine: CosyVoiceEngine) -> bool:
    """Return whether the engine has nothing left of any request, soon enough."""
    ended = await asyncio.to_thread(within, AT_ONCE_S, lambda: not working())
    vocoder = engine._checkpoint.vocoder  # type: ignore[union-attr]
    sessions = [
        held
        for name, held in vars(vocoder).items()
        if name.endswith("_dict") and isinstance(held, dict)
    ]
    gc.collect()
    left = [found for found in gc.get_objects() if isinstance(found, Utterance)]
    return ended and engine.active == 0 and len(sessions) > 2 and not any(sessions) and not left


@BOTH
@FAMILIES
@pytest.mark.parametrize("tokens", [0, 9])
async def test_an_error_among_the_tokens_ends_the_request_at_once(
    engine_of: EngineOf, after_tokens: Any, family: int, tokens: int, *, one_pass: bool
) -> None:
    # Upstream loops for ever here, or says that a kernel is larger than its input.
    engine = engine_of(family)
    broke = after_tokens(engine, tokens)
    with pytest.raises(EngineError) as error:
        await spoken(engine, LONG, one_pass=one_pass)

    assert time.monotonic() - broke[0] < AT_ONCE_S
    assert isinstance(error.value.__cause__, BrokenError)
    del error
    assert await rests(engine)


@BOTH
@FAMILIES
async def test_an_error_in_the_audio_ends_the_request_at_once(
    engine_of: EngineOf, in_audio: Any, family: int, *, one_pass: bool
) -> None:
    engine = engine_of(family)
    broke = in_audio(engine, 0)
    with pytest.raises(EngineError) as error:
        await spoken(engine, LONG, one_pass=one_pass)

    assert time.monotonic() - broke[0] < AT_ONCE_S
    assert isinstance(error.value.__cause__, BrokenError)
    del error
    assert await rests(engine)


@pytest.mark.parametrize("family", [2, 3])
async def test_frames_made_before_an_error_still_come(
    engine_of: EngineOf, in_audio: Any, family: int
) -> None:
    engine = engine_of(family)
    in_audio(engine, 1)
    made = engine.synthesise(asked(engine, LONG))
    assert (await anext(made)).size > 0
    with pytest.raises(EngineError):
        await anext(made)


@FAMILIES
async def test_an_error_of_one_request_is_no_other_ones(
    engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch, family: int
) -> None:
    engine = engine_of(family)
    alone = await spoken(engine, LONG)
    lm = type(engine._checkpoint.lm)  # type: ignore[union-attr]
    inference = lm.inference

    def inferred(self: Any, *given: Any, text: Any, **named: Any) -> Iterator[int]:
        if text.shape[1] < 20:
            raise BrokenError
        yield from inference(self, *given, text=text, **named)

    monkeypatch.setattr(lm, "inference", inferred)
    one, other, third = await asyncio.gather(
        spoken(engine, LONG), spoken(engine, SHORT), spoken(engine, LONG), return_exceptions=True
    )
    assert isinstance(other, EngineError)
    assert np.array_equal(one, alone)
    assert np.array_equal(third, alone)


@FAMILIES
async def test_an_error_of_the_written_text_is_the_requests(
    engine_of: EngineOf, family: int
) -> None:
    engine = engine_of(family)

    async def written() -> AsyncIterator[str]:
        yield f"{LONG} "
        raise BrokenError

    with pytest.raises(EngineError):
        await spoken(engine, written())
    assert await rests(engine)


@BOTH
@FAMILIES
@pytest.mark.parametrize("how", ["closed", "cancelled"])
async def test_a_request_that_is_given_up_stops_at_once(
    engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch, family: int, how: str, *, one_pass: bool
) -> None:
    engine = engine_of(family)
    untouched = await spoken(engine)
    endless(engine, monkeypatch)
    request = asked(engine, THREE, one_pass=one_pass)
    if how == "closed" and not one_pass:
        async with aclosing(engine.synthesise(request)) as made:
            await anext(made)
            began = time.monotonic()
    else:
        task = asyncio.create_task(frames(engine, request))
        assert await asyncio.to_thread(within, 60, lambda: len(working()) == 2)
        began = time.monotonic()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        del task
    assert await asyncio.to_thread(within, AT_ONCE_S, lambda: not working())
    assert time.monotonic() - began < AT_ONCE_S
    assert await rests(engine)

    monkeypatch.undo()
    assert np.array_equal(await spoken(engine), untouched)


def endless(engine: CosyVoiceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the language model go on and on."""
    lm = type(engine._checkpoint.lm)  # type: ignore[union-attr]
    inference = lm.inference

    def inferred(*given: Any, **named: Any) -> Iterator[int]:
        return inference(*given, **{**named, "min_token_text_ratio": 19})

    monkeypatch.setattr(lm, "inference", inferred)


async def test_a_request_given_up_before_its_text_was_written_stops_too(
    engine_of: EngineOf,
) -> None:
    engine = engine_of(2)
    written = asyncio.Event()

    async def never() -> AsyncIterator[str]:
        yield "Hello"
        await written.wait()

    task = asyncio.create_task(frames(engine, asked(engine, never())))
    assert await asyncio.to_thread(within, 60, lambda: len(working()) == 2)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    del task
    assert await rests(engine)


@FAMILIES
async def test_after_a_long_stream_nothing_is_left_and_the_next_begins_as_the_first(
    engine_of: EngineOf, family: int
) -> None:
    engine = engine_of(family)
    hops = {name: value for name, value in held(engine).items() if "hop" in name}
    request = asked(engine, LONGER if family == 1 else LONG)
    first = [frame.size for frame in await frames(engine, request)]
    # Upstream's hop length grows with the longest stream and stays so (its pull request 1849).
    assert hops.items() <= held(engine).items()
    assert [frame.size for frame in await frames(engine, request)] == first
    assert await rests(engine)


def held(engine: CosyVoiceEngine) -> dict[str, Any]:
    return vars(engine._checkpoint.vocoder)  # type: ignore[union-attr]


async def test_a_slow_taker_bounds_what_is_made(
    engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(2)
    waiting: list[Handover[Any]] = []
    put = Handover.put

    def noted(self: Handover[Any], frame: Any) -> bool:
        waiting.append(self)
        taken = put(self, frame)
        waiting.pop()
        return taken

    monkeypatch.setattr(Handover, "put", noted)
    monkeypatch.setattr("services.speech.engines.cosyvoice.engine._HELD_S", 0.2)
    async with aclosing(engine.synthesise(asked(engine, f"{THREE} {THREE}"))) as made:
        taken = [await anext(made)]
        # The audio thread waits with a frame in its hands, and tokens are one segment ahead.
        assert await asyncio.to_thread(within, 60, lambda: _blocked(waiting))
        (utterance,) = engine._utterances
        assert len(utterance._segments) <= 2
        taken += [frame async for frame in made]
    assert len(taken) > 2


def _blocked(waiting: list[Handover[Any]]) -> bool:
    """Return whether a thread is in `put` and stays there: its queue is full."""
    return any(one._waiting > one._held for one in waiting)


async def test_a_closed_engine_ends_its_streams_and_says_so(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = CosyVoiceEngine(model=str(tiny_model(2)), code=CODE, device="cpu")
    with pytest.raises(UnavailableError):
        await frames(engine, asked(engine, reference=ANNA))
    await engine.start()
    assert engine.ready
    endless(engine, monkeypatch)
    made = engine.synthesise(asked(engine, THREE))
    await anext(made)
    began = time.monotonic()
    await engine.close()
    with pytest.raises(UnavailableError):
        await _all(made)
    assert time.monotonic() - began < AT_ONCE_S
    assert not engine.ready
    with pytest.raises(UnavailableError):
        await frames(engine, asked(engine, reference=ANNA))


async def _all(made: AsyncIterator[Any]) -> list[Any]:
    return [frame async for frame in made]


async def test_memory_stays_flat_over_two_hundred_requests(engine_of: EngineOf) -> None:
    engine = engine_of(1, "sft")
    sizes = []
    for at in range(200):
        request = asked(engine, "Hi.", seed=at, one_pass=bool(at % 2))
        if at % 5 == 4:  # some are given up
            async with aclosing(engine.synthesise(request)) as made:
                await anext(made)
        else:
            await frames(engine, request)
        if at in (79, 199):
            gc.collect()
            sizes.append(_resident_bytes())
    assert sizes[1] - sizes[0] < 8_000_000
    assert await rests(engine)


def _resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * 4096
