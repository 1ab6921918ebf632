"""An error in a request ends that request at once and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from services.errors import EngineError, UnavailableError
from services.speech.engines.cosyvoice import tokens
from services.speech.engines.cosyvoice.engine import CosyVoiceEngine
from services.speech.engines.cosyvoice.tokens import Line
from services.speech.engines.cosyvoice.utterance import Utterance, Work
from tests.cosyvoice.conftest import CODE
from tests.cosyvoice.speaking import (
    ANNA,
    BEN,
    LONG,
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

    EngineOf = Callable[..., CosyVoiceEngine]

FAMILIES = pytest.mark.parametrize("family", [2, 3])
BOTH = pytest.mark.parametrize("one_pass", [False, True], ids=["streaming", "one pass"])
AT_ONCE_S = 10.0  # of work that would go on for ever; a busy machine has its own idea of soon


class BrokenError(Exception):
    """Any exception that upstream's code may raise."""


@pytest.fixture(autouse=True)
def _unlogged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep errors out of pytest's record of the log: their tracebacks hold on to the request."""
    monkeypatch.setattr(logging.getLogger("bentovox.speech"), "disabled", True)


@pytest.fixture
def after_tokens(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[float]]:
    """Return `after_tokens(count)`: no line gets more tokens than that, and when that broke."""
    from services.speech.engines.cosyvoice import tokens  # noqa: PLC0415  torch

    def broken(count: int) -> list[float]:
        when: list[float] = []
        draw = tokens.Sampler.__call__

        def drawn(self: Any, best: Any, ids: Any, rest: Any, made: list[int]) -> int:
            if len(made) == count:
                when.append(time.monotonic())
                raise BrokenError
            return draw(self, best, ids, rest, made)

        def given(*_: Any) -> None:
            when.append(time.monotonic())
            raise BrokenError

        if count:
            monkeypatch.setattr(tokens.Sampler, "__call__", drawn)
        else:
            monkeypatch.setattr(tokens, "_given", given)
        return when

    return broken


@pytest.fixture
def in_audio(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Return `in_audio(count)`: the flow breaks after so many parts, and when."""
    from services.speech.engines.cosyvoice import flow  # noqa: PLC0415  torch

    def broken(count: int) -> list[float]:
        make, when, calls = flow.mels, [], []

        def made(*given: Any, **named: Any) -> Any:
            calls.append(None)
            if len(calls) > count:
                when.append(time.monotonic())
                raise BrokenError
            return make(*given, **named)

        monkeypatch.setattr(flow, "mels", made)
        return when

    return broken


async def rests(engine: CosyVoiceEngine) -> bool:
    """Return whether the engine has nothing left of any request, soon enough."""

    def is_left() -> bool:
        gc.collect()
        return any(isinstance(found, (Utterance, Work, Line)) for found in gc.get_objects())

    gone = await asyncio.to_thread(within, AT_ONCE_S, lambda: not is_left())
    return gone and active(engine) == 0


@BOTH
@FAMILIES
@pytest.mark.parametrize("count", [0, 9])
async def test_an_error_among_the_tokens_ends_the_request_at_once(
    engine_of: EngineOf, after_tokens: Any, family: int, count: int, *, one_pass: bool
) -> None:
    # Upstream loops for ever here, or says that a kernel is larger than its input.
    engine = engine_of(family)
    broke = after_tokens(count)
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
    broke = in_audio(0)
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
    in_audio(1)
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
    given = tokens._given

    def asked_for(lm: Any, line: Any, device: Any) -> Any:
        if len(line.text) < 20:
            raise BrokenError
        return given(lm, line, device)

    monkeypatch.setattr(tokens, "_given", asked_for)
    one, other, third = await asyncio.gather(
        spoken(engine, LONG), spoken(engine, SHORT), spoken(engine, LONG), return_exceptions=True
    )
    assert isinstance(other, EngineError)
    assert apart(one, alone) < 1e-4
    assert apart(third, alone) < 1e-4


@pytest.mark.parametrize("family", [2, 3])
async def test_a_voice_that_breaks_the_flow_breaks_no_other_ones_sound(
    engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch, family: int
) -> None:
    from services.speech.engines.cosyvoice import flow, prompt  # noqa: PLC0415  torch

    engine = engine_of(family)
    alone = await said_again(engine)
    ben = prompt.features_of(engine._loaded().checkpoint, BEN).embedding
    mels, sizes, goes = flow.mels, [], threading.Event()

    def made(model: Any, batch: Any, **named: Any) -> Any:
        sizes.append(len(batch))
        assert goes.wait(60)
        if any(part.prompt.heard.embedding.equal(ben) for part in batch):
            raise BrokenError
        return mels(model, batch, **named)

    monkeypatch.setattr(flow, "mels", made)
    before = asyncio.create_task(said_again(engine))  # it holds the flow until the others wait
    assert await asyncio.to_thread(within, 60, lambda: sizes)
    three = [said_again(engine, reference=reference) for reference in (ANNA, BEN, ANNA)]
    together = asyncio.gather(*three, return_exceptions=True)
    assert await asyncio.to_thread(within, 60, lambda: active(engine) == 4)
    goes.set()
    one, other, third = await together

    assert sizes == [1, 3, 1, 1, 1]
    assert isinstance(other, EngineError)
    for heard in (one, third, await before):
        assert apart(heard, alone) < 1e-4


async def said_again(engine: CosyVoiceEngine, **given: Any) -> Any:
    return np.concatenate(await frames(engine, conversion(one_pass=True, **given)))


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
    monkeypatch.setattr(tokens, "_LEAST", 19)
    request = asked(engine, THREE, one_pass=one_pass)
    if how == "closed" and not one_pass:
        async with aclosing(engine.synthesise(request)) as made:
            await anext(made)
            began = time.monotonic()
    else:
        task = asyncio.create_task(frames(engine, request))
        assert await asyncio.to_thread(within, 60, lambda: engine._stages._decoder.lines)
        began = time.monotonic()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        del task
    assert await rests(engine)
    assert time.monotonic() - began < 2 * AT_ONCE_S

    monkeypatch.undo()
    assert apart(await spoken(engine), untouched) < 1e-4


async def test_a_request_given_up_before_its_text_was_written_stops_too(
    engine_of: EngineOf,
) -> None:
    engine = engine_of(2)
    written = asyncio.Event()

    async def never() -> AsyncIterator[str]:
        yield "Hello"
        await written.wait()

    task = asyncio.create_task(frames(engine, asked(engine, never())))
    assert await asyncio.to_thread(within, 60, lambda: active(engine) == 1)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    del task
    assert await rests(engine)


@FAMILIES
async def test_after_a_long_stream_nothing_is_left_and_the_next_begins_as_the_first(
    engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch, family: int
) -> None:
    engine = engine_of(family)
    # Else parts are as large as time allows.
    monkeypatch.setattr("services.speech.engines.cosyvoice.utterance.IN_TIME", 0.0)
    request = asked(engine, LONG)
    # Upstream's hop length grows with the longest stream and stays so (its pull request 1849).
    first = [frame.size for frame in await frames(engine, request)]
    assert [frame.size for frame in await frames(engine, request)] == first
    assert await rests(engine)


async def test_a_slow_taker_bounds_what_is_made(
    engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(2)
    monkeypatch.setattr("services.speech.engines.cosyvoice.utterance._HELD_S", 0.2)
    async with aclosing(engine.synthesise(asked(engine, " ".join([THREE] * 5)))) as made:
        taken = [await anext(made)]
        stages = engine._stages
        assert stages is not None
        (utterance,) = stages._utterances
        # Two parts are in work at most when enough is waiting, and tokens are a segment ahead.
        assert await asyncio.to_thread(
            within, 60, lambda: not (utterance.in_work or stages._decoder.lines)
        )
        assert utterance.work(0.0) is None
        assert len(utterance.segments) <= 2
        assert utterance.texts
        taken += [frame async for frame in made]
    assert len(taken) > 2


async def test_a_closed_engine_ends_its_streams_and_says_so(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = CosyVoiceEngine(model=str(tiny_model(2)), code=CODE, device="cpu")
    with pytest.raises(UnavailableError):
        await frames(engine, asked(engine, reference=ANNA))
    await engine.start()
    assert engine.ready
    monkeypatch.setattr(tokens, "_LEAST", 19)
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


@pytest.mark.timeout(600)
async def test_memory_stays_flat_over_five_hundred_requests(engine_of: EngineOf) -> None:
    engine = engine_of(2)
    sizes = []
    for at in range(500):
        request = asked(engine, "Hi.", seed=at, one_pass=bool(at % 2))
        if at % 5 == 4:  # some are given up
            async with aclosing(engine.synthesise(request)) as made:
                await anext(made)
        else:
            await frames(engine, request)
        if at in (79, 499):
            gc.collect()
            sizes.append(_resident_bytes())
    assert sizes[1] - sizes[0] < 8_000_000
    assert await rests(engine)


def _resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * 4096
