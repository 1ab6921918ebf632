"""Trial compilation in its own process: limited in time, one at a time, cached, cancelled alone."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from services.chat.constraints import Constraint
from services.chat.trial import Trial
from services.errors import EngineError, InvalidRequestError, OverloadedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

# Takes the place of xgrammar: "hang" hangs, "end" ends, "bad" is refused; it says who it is.
STAND_IN = """
import json, os, sys, time
sys.stdin.readline()
print("ready", flush=True)
for line in sys.stdin:
    text = json.loads(line)["text"].strip()
    if text == "hang":
        time.sleep(600)
    if text == "end":
        sys.exit()
    fault = f"[10:20:30] /x/y.cc:83: {os.getpid()}" if text in ("bad", "worse") else ""
    print(json.dumps(fault), flush=True)
"""


def regex(text: str) -> Constraint:
    return Constraint("structured_outputs.regex", "regex", text, 0)


def large(text: str) -> Constraint:
    return regex(text + " " * 600)


def trying(
    work: Callable[[Trial], Awaitable[Any]],
    *,
    limit_s: float = 60,
    wait_s: float = 0.1,
    waiting: int = 8,
) -> Any:
    async def run() -> Any:
        trial = Trial(
            lambda: "{}",
            lambda _: None,
            limit_s=limit_s,
            wait_s=wait_s,
            waiting=waiting,
            command=(sys.executable, "-c", STAND_IN),
        )
        try:
            return await work(trial)
        finally:
            await trial.close()

    return asyncio.run(run())


async def fault(trial: Trial, text: str) -> str:
    with pytest.raises(InvalidRequestError) as refused:
        await trial.check([regex(text)])
    assert refused.value.param == "structured_outputs.regex"
    return refused.value.message


def test_what_compiles_passes_and_what_does_not_is_refused_in_the_compilers_words() -> None:
    async def work(trial: Trial) -> None:
        await trial.check([regex("a"), regex("b")])
        one, other = await fault(trial, "bad"), await fault(trial, "worse")
        assert one == other  # by one process
        assert one.startswith("structured_outputs.regex: ")
        assert ".cc" not in one

    trying(work)


def test_what_takes_too_long_is_refused_and_the_next_is_tried_all_the_same() -> None:
    async def work(trial: Trial) -> None:
        assert "BENTOVOX_CHAT__GRAMMAR_S" in await fault(trial, "hang")
        await trial.check([regex("a")])

    trying(work, limit_s=1)


def test_one_that_was_given_up_holds_nobody_up() -> None:
    async def work(trial: Trial) -> None:
        left = asyncio.create_task(trial.check([regex("hang")]))
        await asyncio.sleep(0)  # until it waits for the process
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        await trial.check([regex("a")])

    trying(work)


def test_they_are_tried_one_at_a_time_and_those_that_wait_too_long_are_told() -> None:
    async def work(trial: Trial) -> None:
        first = asyncio.create_task(trial.check([regex("hang")]))
        await asyncio.sleep(0)  # until it waits for the process
        with pytest.raises(OverloadedError) as refused:
            await trial.check([regex("a")])
        assert refused.value.retry_after_s
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

    trying(work)


def test_what_has_passed_is_not_tried_again_and_what_is_plain_never() -> None:
    async def work(trial: Trial) -> None:
        await trial.check([regex("a")])
        first = asyncio.create_task(trial.check([regex("hang")]))
        await asyncio.sleep(0)  # until it waits for the process
        await trial.check([regex("a"), Constraint("response_format", "json", "{}", 0)])
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

    trying(work)


def test_a_process_that_ends_is_our_fault_and_is_started_anew() -> None:
    async def work(trial: Trial) -> None:
        with pytest.raises(EngineError):
            await trial.check([regex("end")])
        await trial.check([regex("a")])

    trying(work)


@asynccontextmanager
async def held_up(trial: Trial, *constraints: Constraint) -> AsyncIterator[None]:
    """Have these tried, one after the other."""
    tasks = [asyncio.create_task(trial.check([constraint])) for constraint in constraints]
    await asyncio.sleep(0)  # until they wait
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_a_small_one_does_not_wait_behind_large_ones() -> None:
    async def work(trial: Trial) -> None:
        async with held_up(trial, *(large("hang" + " " * n) for n in range(20))):
            await trial.check([regex("a")])

    trying(work)


def test_no_more_wait_than_may_and_the_next_is_told_at_once() -> None:
    async def work(trial: Trial) -> None:
        async with held_up(trial, large("hang"), large("a"), large("b")):
            with pytest.raises(OverloadedError) as refused:
                await trial.check([large("c")])
            assert refused.value.retry_after_s

    trying(work, wait_s=600, waiting=2)


def test_a_small_one_that_takes_long_is_tried_among_the_large_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.chat.trial._SMALL_S", 0.1)

    async def work(trial: Trial) -> None:
        async with held_up(trial, large("hang")):
            with pytest.raises(OverloadedError):
                await trial.check([regex("hang")])

    trying(work)


def test_what_was_refused_is_refused_again_without_another_trial() -> None:
    async def work(trial: Trial) -> None:
        refused = await fault(trial, "bad"), await fault(trial, "hang")
        async with held_up(trial, regex("hang "), large("hang")):
            assert (await fault(trial, "bad"), await fault(trial, "hang")) == refused

    trying(work, limit_s=1)
