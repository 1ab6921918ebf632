"""All requests' work is done in batches, in turn, and none waits for ever."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from services.transcription.engines.batches import Batches

if TYPE_CHECKING:
    from collections.abc import Iterator

Job = tuple[str, str, int]  # its kind, its asker, its number


class Worker:
    """Records batches, each blocked until it is released."""

    def __init__(self) -> None:
        self.done: list[list[Job]] = []
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def __call__(self, jobs: list[Job]) -> None:
        self.done.append(jobs)
        self.begun.release()
        assert self.go.acquire(timeout=10)
        if jobs[0][0] == "bad":
            raise RuntimeError("this kind always fails")

    def step(self, count: int = 1) -> None:
        """Let the batch at work go, and wait for the next to begin."""
        for _ in range(count):
            self.go.release()
            assert self.begun.acquire(timeout=10)


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def batches(worker: Worker) -> Iterator[Batches[Job]]:
    made: Batches[Job] = Batches(worker, lambda job: job[0], 4)
    yield made
    made.close()
    worker.go.release(100)
    made.join()


def held_up(worker: Worker, batches: Batches[Job]) -> None:
    """Keep the thread at work, so that what is put meanwhile waits."""
    batches.lane().put(("first", "", 0))
    assert worker.begun.acquire(timeout=10)


def test_one_that_comes_alone_is_not_kept_waiting(worker: Worker, batches: Batches[Job]) -> None:
    held_up(worker, batches)
    assert worker.done == [[("first", "", 0)]]


def test_what_waits_of_one_kind_is_done_together(worker: Worker, batches: Batches[Job]) -> None:
    held_up(worker, batches)
    for asker in "abc":
        batches.lane().put(("file", asker, 0))
    worker.step()
    assert worker.done[1] == [("file", "a", 0), ("file", "b", 0), ("file", "c", 0)]


def test_lanes_give_in_turn_and_in_their_own_order(worker: Worker, batches: Batches[Job]) -> None:
    held_up(worker, batches)
    long, short = batches.lane(), batches.lane()
    for number in range(9):
        long.put(("file", "long", number))
    short.put(("file", "short", 0))
    short.put(("file", "short", 1))
    worker.step(3)
    assert worker.done[1] == [
        ("file", "long", 0),
        ("file", "short", 0),
        ("file", "long", 1),
        ("file", "short", 1),
    ]
    assert worker.done[2] == [("file", "long", number) for number in range(2, 6)]


def test_hours_in_one_lane_hold_up_nobody(worker: Worker, batches: Batches[Job]) -> None:
    held_up(worker, batches)
    for asker in "ab":
        lane = batches.lane()
        for number in range(100):
            lane.put(("file", asker, number))
    worker.step()
    guess = batches.lane()
    guess.put(("guess", "live", 0))
    worker.step(2)
    assert [("guess", "live", 0)] in worker.done[2:4]


def test_what_is_urgent_comes_next_however_much_waits(
    worker: Worker, batches: Batches[Job]
) -> None:
    held_up(worker, batches)
    for asker in "abcdefgh":
        lane = batches.lane()
        for number in range(10):
            lane.put(("file", asker, number))
    worker.step()
    batches.lane(urgent=True).put(("guess", "live", 0))
    worker.step()
    assert worker.done[2] == [("guess", "live", 0)]


def test_what_is_urgent_leaves_every_other_batch_to_the_others(
    worker: Worker, batches: Batches[Job]
) -> None:
    held_up(worker, batches)
    for is_urgent, kind in ((True, "guess"), (False, "file")):
        lane = batches.lane(urgent=is_urgent)
        for number in range(100):
            lane.put((kind, kind, number))
    worker.step(6)
    assert [batch[0][0] for batch in worker.done[1:]] == ["guess", "file"] * 3


def test_batches_beside_live_work_are_short_and_get_long_again(worker: Worker) -> None:
    now = [0.0]
    batches: Batches[Job] = Batches(worker, lambda job: job[0], 4, lambda: now[0])

    def step(seconds: float) -> None:
        now[0] += seconds
        worker.step()

    held_up(worker, batches)
    lane = batches.lane()
    for number in range(100):
        lane.put(("file", "long", number))
    for _ in range(8):
        step(0.2 * len(worker.done[-1]))  # a job takes a fifth of a second
    batches.lane(urgent=True).put(("guess", "live", 0))
    step(0.8)
    step(0.1)
    step(0.4)
    step(5.0)
    step(1.0)
    assert [len(batch) for batch in worker.done[-5:]] == [1, 2, 2, 4, 4]
    batches.close()
    worker.go.release(100)
    batches.join()


def test_two_kinds_take_turns(worker: Worker, batches: Batches[Job]) -> None:
    held_up(worker, batches)
    for kind in ("file", "guess"):
        for asker in range(6):
            lane = batches.lane()
            for number in range(10):
                lane.put((kind, f"{kind}{asker}", number))
    worker.step(8)
    kinds = [batch[0][0] for batch in worker.done[1:]]
    assert kinds.count("file") == kinds.count("guess") == 4
    assert all(len(batch) == 4 for batch in worker.done[1:])


def test_what_is_put_first_comes_before_its_lane(worker: Worker, batches: Batches[Job]) -> None:
    held_up(worker, batches)
    lane = batches.lane()
    lane.put(("file", "a", 1))
    lane.put(("again", "a", 0), first=True)
    worker.step(2)
    assert worker.done[1:] == [[("again", "a", 0)], [("file", "a", 1)]]


def test_a_closed_lane_is_dropped(worker: Worker, batches: Batches[Job]) -> None:
    held_up(worker, batches)
    gone, kept = batches.lane(), batches.lane()
    for number in range(20):
        gone.put(("file", "gone", number))
    kept.put(("file", "kept", 0))
    gone.close()
    gone.put(("file", "gone", 20))
    worker.step()
    assert worker.done[1] == [("file", "kept", 0)]


def test_a_batch_that_raises_ends_no_thread(worker: Worker, batches: Batches[Job]) -> None:
    held_up(worker, batches)
    batches.lane().put(("bad", "a", 0))
    batches.lane().put(("file", "b", 0))
    worker.step(2)
    assert worker.done[2] == [("file", "b", 0)]


def test_closing_drops_what_waits(worker: Worker) -> None:
    batches: Batches[Job] = Batches(worker, lambda job: job[0], 4)
    held_up(worker, batches)
    batches.lane().put(("file", "a", 0))
    batches.close()
    worker.go.release()
    batches.join()
    assert len(worker.done) == 1
