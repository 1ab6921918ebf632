from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.errors import OverloadedError
from services.server.admission import Admission, Limits


def admission(slots: int = 1, queue: int = 2, deadline_s: float = 30) -> Admission:
    return Admission(Limits(slots, queue, deadline_s))


async def turns() -> None:
    """Let everything that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_slots_are_given_at_once_and_counted() -> None:
    gate = admission(slots=2, queue=1)
    assert gate.remaining == 3
    await gate.acquire()
    await gate.acquire()
    assert (gate.in_use, gate.waiting, gate.remaining) == (2, 0, 1)
    gate.release()
    assert (gate.in_use, gate.remaining) == (1, 2)


async def test_the_queue_is_first_come_first_served() -> None:
    gate = admission(slots=1, queue=3)
    await gate.acquire()
    order: list[int] = []

    async def client(number: int) -> None:
        await gate.acquire()
        order.append(number)
        gate.release()

    clients = []
    for number in range(3):
        clients.append(asyncio.create_task(client(number)))
        await turns()
    assert gate.waiting == 3
    gate.release()
    await asyncio.gather(*clients)
    assert order == [0, 1, 2]
    assert gate.in_use == 0


async def test_past_the_queue_the_refusal_is_immediate_and_says_when_to_come_back() -> None:
    gate = admission(slots=1, queue=0)
    await gate.acquire()
    with pytest.raises(OverloadedError, match="limit of 1 concurrent") as refused:
        await gate.acquire()
    assert refused.value.retry_after_s is not None
    assert 0.05 <= refused.value.retry_after_s <= 30
    assert (gate.in_use, gate.waiting) == (1, 0)


async def test_a_place_in_the_queue_lasts_until_the_deadline() -> None:
    gate = admission(queue=1, deadline_s=0.01)
    await gate.acquire()
    with pytest.raises(OverloadedError, match=r"within 0\.01 s"):
        await gate.acquire()
    assert gate.waiting == 0
    gate.release()
    await gate.acquire()
    assert gate.in_use == 1


async def test_who_leaves_the_queue_frees_the_place() -> None:
    gate = admission(queue=1)
    await gate.acquire()
    waiting = asyncio.create_task(gate.acquire())
    await turns()
    waiting.cancel()
    await turns()
    assert gate.waiting == 0
    gate.release()
    assert gate.in_use == 0


async def test_a_slot_handed_to_one_who_leaves_in_that_moment_goes_on_to_the_next() -> None:
    gate = admission(queue=2)
    await gate.acquire()
    leaving = asyncio.create_task(gate.acquire())
    next_ = asyncio.create_task(gate.acquire())
    await turns()
    gate.release()  # to `leaving`, which is cancelled before it runs
    leaving.cancel()
    await next_
    assert (gate.in_use, gate.waiting) == (1, 0)


async def test_a_slot_is_released_however_its_work_ends() -> None:
    gate = admission()

    async def fail() -> None:
        async with gate.slot():
            assert gate.in_use == 1
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert gate.in_use == 0


async def test_retry_after_grows_with_the_queue_and_stays_in_bounds() -> None:
    gate = admission(slots=1, queue=100)
    await gate.acquire()
    before = gate.retry_after_s()
    waiting = [asyncio.create_task(gate.acquire()) for _ in range(100)]
    await turns()
    assert before < gate.retry_after_s() <= 30
    for task in waiting:
        task.cancel()
    await turns()
    assert admission(slots=10_000).retry_after_s() >= 0.05


async def test_headers_tell_limit_remaining_and_reset() -> None:
    gate = admission(slots=1, queue=2)
    assert dict(gate.headers()) == {
        b"x-ratelimit-limit-requests": b"3",
        b"x-ratelimit-remaining-requests": b"3",
        b"x-ratelimit-reset-requests": b"0ms",
    }
    await gate.acquire()
    headers = dict(gate.headers())
    assert headers[b"x-ratelimit-remaining-requests"] == b"2"
    assert headers[b"x-ratelimit-reset-requests"] == b"1000ms"


CLIENT = st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans())


@settings(max_examples=60, deadline=None)
@given(
    slots=st.integers(1, 4),
    queue=st.integers(0, 4),
    clients=st.lists(CLIENT, max_size=20),
)
def test_never_more_than_the_slots_at_work_and_nothing_lost(
    slots: int, queue: int, clients: list[tuple[int, int, bool]]
) -> None:
    """Each client comes after some turns of the loop, works for some, and may be cancelled."""

    async def play() -> None:
        gate = admission(slots, queue)
        at_work = 0
        outcomes: list[str] = []

        async def client(arrives: int, works: int) -> None:
            nonlocal at_work
            for _ in range(arrives):
                await asyncio.sleep(0)
            try:
                async with gate.slot():
                    at_work += 1
                    try:
                        assert at_work <= slots
                        assert gate.in_use <= slots
                        assert gate.waiting <= queue
                        for _ in range(works):
                            await asyncio.sleep(0)
                        outcomes.append("served")
                    finally:
                        at_work -= 1
            except OverloadedError:
                outcomes.append("refused")

        tasks = [asyncio.create_task(client(arrives, works)) for arrives, works, _ in clients]
        for _ in range(3):
            await asyncio.sleep(0)
        for task, (_, _, leaves) in zip(tasks, clients, strict=True):
            if leaves:
                task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        cancelled = sum(isinstance(end, asyncio.CancelledError) for end in ends)
        assert [end for end in ends if end is not None] == [
            end for end in ends if isinstance(end, asyncio.CancelledError)
        ]
        assert len(outcomes) + cancelled == len(clients)
        assert (gate.in_use, gate.waiting, gate.remaining) == (0, 0, slots + queue)

    asyncio.run(play())


# Heavy requests


async def test_however_much_a_few_ask_for_others_have_half_of_the_slots() -> None:
    gate = admission(slots=8, queue=8)
    heavy = [asyncio.create_task(gate.acquire(gate.weight(100))) for _ in range(4)]
    await turns()
    assert (gate.in_use, gate.waiting) == (4, 3)
    for _ in range(4):
        async with asyncio.timeout(1):
            await gate.acquire()  # a light one passes those that wait
    assert gate.in_use == 8
    for one in heavy:
        one.cancel()


async def test_heavy_requests_leave_half_of_the_queue_to_others() -> None:
    gate = admission(slots=2 * 2, queue=4)
    tasks = [asyncio.create_task(gate.acquire(2)) for _ in range(3)]
    await turns()
    assert gate.waiting == 2
    with pytest.raises(OverloadedError):
        await gate.acquire(2)
    for _ in range(2):
        await gate.acquire()
    tasks += [asyncio.create_task(gate.acquire()) for _ in range(2)]
    await turns()
    assert gate.waiting == 4
    for one in tasks:
        one.cancel()


async def test_a_heavy_request_is_not_kept_out_by_light_ones_for_ever() -> None:
    gate = admission(slots=4, queue=9)
    for _ in range(4):
        await gate.acquire()
    heavy = asyncio.create_task(gate.acquire(2))
    await turns()
    light = [asyncio.create_task(gate.acquire()) for _ in range(5)]
    await turns()
    gate.release()
    gate.release()
    await turns()
    assert heavy.done()
    assert not any(one.done() for one in light)
    for one in light:
        one.cancel()


async def test_light_requests_that_came_first_are_not_passed_by_a_heavy_one() -> None:
    gate = admission(slots=4, queue=9)
    for _ in range(4):
        await gate.acquire()
    light = asyncio.create_task(gate.acquire())
    await turns()
    heavy = asyncio.create_task(gate.acquire(2))
    await turns()
    gate.release()
    await turns()
    assert (light.done(), heavy.done()) == (True, False)
    gate.release()
    gate.release()
    await turns()
    assert heavy.done()


async def test_a_large_heavy_request_is_not_kept_out_by_small_ones_for_ever() -> None:
    gate = admission(slots=8, queue=9)
    await gate.acquire(2)
    await gate.acquire(2)
    large = asyncio.create_task(gate.acquire(4))
    await turns()
    small = asyncio.create_task(gate.acquire(2))
    await turns()
    gate.release(2)
    await turns()
    late = asyncio.create_task(gate.acquire(2))
    await turns()
    assert not any(one.done() for one in (large, small, late))
    await asyncio.wait_for(gate.acquire(), 10)  # light ones do not wait for that half
    gate.release(2)
    await turns()
    assert (large.done(), small.done(), late.done()) == (True, False, False)
    gate.release(4)
    await turns()
    assert small.done()
    assert late.done()


async def test_who_gives_up_a_heavy_request_lets_the_light_ones_in() -> None:
    gate = admission(slots=4, queue=9)
    for _ in range(4):
        await gate.acquire()
    heavy = asyncio.create_task(gate.acquire(2))
    await turns()
    light = asyncio.create_task(gate.acquire())
    await turns()
    gate.release()
    await turns()
    assert not light.done()  # the place is kept for who came first
    heavy.cancel()
    await turns()
    assert light.done()


def test_no_request_is_heavier_than_half_of_the_slots() -> None:
    assert [admission(slots=slots).weight(100) for slots in (1, 2, 3, 4, 64)] == [1, 1, 1, 2, 32]


async def test_an_engine_that_knows_how_many_it_can_do_has_no_more_at_work() -> None:
    can: list[int | None] = [None]
    gate = Admission(Limits(4, 2, 30, lambda: can[0]))
    for _ in range(3):
        await gate.acquire()
    can[0] = 2
    assert not gate.has_room()
    waiting = asyncio.ensure_future(gate.acquire())
    gate.release()
    await turns()
    assert not waiting.done(), "two are still at work"
    gate.release()
    await turns()
    assert waiting.done()
    can[0] = 9
    assert gate.remaining == 4 + 2 - 2, "never more than the slots"
