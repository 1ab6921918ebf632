"""All requests' work is done in batches, in turn, and none waits for ever."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from services.errors import EngineError, UnavailableError
from services.transcription.engines.batches import Batches

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Job = tuple[str, str, int]  # its kind, its asker, its number


class Worker:
    """Records batches, each blocked until it is released."""

    def __init__(self) -> None:
        self.done: list[list[Job]] = []
        self.most = 100
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def __call__(self, jobs: list[Job]) -> list[Job]:
        if len(jobs) > self.most:
            raise MemoryError("out of memory")
        self.done.append(jobs)
        self.begun.release()
        assert self.go.acquire(timeout=10)
        if jobs[0][0] == "bad":
            raise RuntimeError("this kind always fails")
        return [job for job in jobs if job[0] != "forgotten"]

    async def until_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=10)

    async def step(self, count: int = 1) -> None:
        """Let the batch at work go, and wait for the next to begin."""
        for _ in range(count):
            self.go.release()
            await self.until_begun()


class Asked:
    """What was asked, in tasks."""

    def __init__(self, batches: Batches[Job, Job]) -> None:
        self.tasks: list[asyncio.Task[Job]] = []
        self._batches = batches

    async def __call__(
        self, lane: object, *jobs: Job, urgent: bool = False, first: bool = False
    ) -> None:
        for job in jobs:
            asked = self._batches.done(lane, job, urgent=urgent, first=first)
            self.tasks.append(asyncio.create_task(asked))
        await asyncio.sleep(0)  # they have asked now


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
async def asked(worker: Worker) -> AsyncIterator[Asked]:
    """Return what asks while the worker is at work, so that it waits."""
    batches: Batches[Job, Job] = Batches("it", worker, lambda job: job[0], 4)
    made = Asked(batches)
    await made("", ("first", "", 0))
    await worker.until_begun()
    yield made
    worker.go.release(100)
    await batches.close()
    await asyncio.gather(*made.tasks, return_exceptions=True)


async def test_one_that_comes_alone_is_not_kept_waiting(worker: Worker, asked: Asked) -> None:
    assert worker.done == [[("first", "", 0)]]
    worker.go.release()
    assert await asked.tasks[0] == ("first", "", 0)


async def test_what_waits_of_one_kind_is_done_together(worker: Worker, asked: Asked) -> None:
    for asker in "abc":
        await asked(asker, ("file", asker, 0))
    await worker.step()
    assert worker.done[1] == [("file", "a", 0), ("file", "b", 0), ("file", "c", 0)]
    worker.go.release()
    assert await asyncio.gather(*asked.tasks[1:]) == worker.done[1]


async def test_lanes_give_in_turn_and_in_their_own_order(worker: Worker, asked: Asked) -> None:
    await asked("long", *(("file", "long", number) for number in range(9)))
    await asked("short", ("file", "short", 0), ("file", "short", 1))
    await worker.step(3)
    assert worker.done[1] == [
        ("file", "long", 0),
        ("file", "short", 0),
        ("file", "long", 1),
        ("file", "short", 1),
    ]
    assert worker.done[2] == [("file", "long", number) for number in range(2, 6)]


async def test_hours_in_one_lane_hold_up_nobody(worker: Worker, asked: Asked) -> None:
    for asker in "ab":
        await asked(asker, *(("file", asker, number) for number in range(100)))
    await worker.step()
    await asked("live", ("guess", "live", 0))
    await worker.step(2)
    assert [("guess", "live", 0)] in worker.done[2:4]


async def test_what_is_urgent_comes_next_however_much_waits(worker: Worker, asked: Asked) -> None:
    for asker in "abcdefgh":
        await asked(asker, *(("file", asker, number) for number in range(10)))
    await worker.step()
    await asked("live", ("guess", "live", 0), urgent=True)
    await worker.step()
    assert worker.done[2] == [("guess", "live", 0)]


async def test_what_is_urgent_leaves_every_other_batch_to_the_others(
    worker: Worker, asked: Asked
) -> None:
    for is_urgent, kind in ((True, "guess"), (False, "file")):
        await asked(kind, *((kind, kind, number) for number in range(100)), urgent=is_urgent)
    await worker.step(6)
    assert [batch[0][0] for batch in worker.done[1:]] == ["guess", "file"] * 3


async def test_batches_beside_live_work_are_short_and_get_long_again(worker: Worker) -> None:
    now = [0.0]
    batches: Batches[Job, Job] = Batches("it", worker, lambda job: job[0], 4, lambda: now[0])
    asked = Asked(batches)

    async def step(seconds: float) -> None:
        now[0] += seconds
        await worker.step()

    await asked("", ("first", "", 0))
    await worker.until_begun()
    await asked("long", *(("file", "long", number) for number in range(100)))
    for _ in range(8):
        await step(0.2 * len(worker.done[-1]))  # a job takes a fifth of a second
    await asked("live", ("guess", "live", 0), urgent=True)
    for seconds in (0.8, 0.1, 0.4, 5.0, 1.0):
        await step(seconds)
    assert [len(batch) for batch in worker.done[-5:]] == [1, 2, 2, 4, 4]
    worker.go.release(100)
    await batches.close()
    await asyncio.gather(*asked.tasks, return_exceptions=True)


async def test_two_kinds_take_turns(worker: Worker, asked: Asked) -> None:
    for kind in ("file", "guess"):
        for asker in range(6):
            name = f"{kind}{asker}"
            await asked(name, *((kind, name, number) for number in range(10)))
    await worker.step(8)
    kinds = [batch[0][0] for batch in worker.done[1:]]
    assert kinds.count("file") == kinds.count("guess") == 4
    assert all(len(batch) == 4 for batch in worker.done[1:])


async def test_what_is_put_first_comes_before_its_lane(worker: Worker, asked: Asked) -> None:
    await asked("a", ("file", "a", 1))
    await asked("a", ("again", "a", 0), first=True)
    await worker.step(2)
    assert worker.done[1:] == [[("again", "a", 0)], [("file", "a", 1)]]


async def test_what_nobody_waits_for_any_more_is_dropped(worker: Worker, asked: Asked) -> None:
    await asked("gone", *(("file", "gone", number) for number in range(20)))
    await asked("kept", ("file", "kept", 0))
    for task in asked.tasks[1:21]:
        task.cancel()
    await asyncio.wait(asked.tasks[1:21])
    await worker.step()
    assert worker.done[1] == [("file", "kept", 0)]


async def test_a_batch_that_fails_is_told_and_ends_nothing(worker: Worker, asked: Asked) -> None:
    await asked("a", ("bad", "a", 0))
    await asked("b", ("file", "b", 0))
    await worker.step(2)
    assert worker.done[2] == [("file", "b", 0)]
    with pytest.raises(EngineError, match="it failed") as told:
        await asked.tasks[1]
    assert told.value.code == "engine_failed"
    assert isinstance(told.value.__cause__, RuntimeError)


async def test_a_batch_that_is_too_large_is_halved(worker: Worker, asked: Asked) -> None:
    worker.most = 2
    for asker in "abcd":
        await asked(asker, ("file", asker, 0))
    worker.go.release(100)
    assert [one[1] for one in await asyncio.gather(*asked.tasks[1:])] == ["a", "b", "c", "d"]
    assert [len(batch) for batch in worker.done] == [1, 2, 2]


async def test_a_worker_that_is_dead_fails_everybody_and_hangs_nobody(
    worker: Worker, asked: Asked
) -> None:
    worker.most = 0
    for asker in "abcde":
        await asked(asker, ("file", asker, 0))
    worker.go.release(100)
    told = await asyncio.gather(*asked.tasks[1:], return_exceptions=True)
    assert all(isinstance(one, EngineError) for one in told)


async def test_a_worker_that_forgets_a_result_fails_its_batch_alone(
    worker: Worker, asked: Asked
) -> None:
    await asked("a", ("forgotten", "a", 0), ("forgotten", "a", 1))
    await asked("b", ("file", "b", 0))
    worker.go.release(100)
    told = await asyncio.gather(*asked.tasks[1:], return_exceptions=True)
    assert [type(one) for one in told] == [EngineError, EngineError, tuple]


async def test_closing_lets_nobody_wait_and_begins_no_other_batch(worker: Worker) -> None:
    batches: Batches[Job, Job] = Batches("it", worker, lambda job: job[0], 4)
    asked = Asked(batches)
    await asked("", ("first", "", 0))
    await worker.until_begun()
    await asked("a", ("file", "a", 0))
    closing = asyncio.create_task(batches.close())
    told = await asyncio.gather(*asked.tasks, return_exceptions=True)
    assert all(isinstance(one, UnavailableError) for one in told)
    assert not closing.done(), "the batch at work is finished first"
    worker.go.release()
    await closing
    assert len(worker.done) == 1
    with pytest.raises(UnavailableError):
        await batches.done("b", ("file", "b", 0))


async def test_a_thread_that_cannot_be_started_fails_its_batch_alone(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_thread(_: object) -> None:
        raise RuntimeError("can't start new thread")

    batches: Batches[Job, Job] = Batches("it", worker, lambda job: job[0], 4)
    with monkeypatch.context() as patched:
        patched.setattr("services.transcription.engines.batches.in_daemon", no_thread)
        with pytest.raises(EngineError, match="it failed"):
            await batches.done("a", ("file", "a", 0))
    worker.go.release()
    assert await batches.done("a", ("file", "a", 1)) == ("file", "a", 1)
    await batches.close()
