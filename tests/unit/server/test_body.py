"""The pace of a body: one that trickles is refused, a slow but steady one is served."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.errors import OverloadedError, RequestTimeoutError
from services.server.body import RATE_BYTES_S, SILENCE_S, Body, Held


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("services.server.body.time", clock)
    return clock


def sent(clock: Clock, pieces: int, piece: bytes, every_s: float) -> Body:
    """Return a body that comes in `pieces`, one every so many seconds."""
    left = pieces

    async def receive() -> Any:
        nonlocal left
        left -= 1
        clock.now_s += every_s
        return {"type": "http.request", "body": piece, "more_body": left > 0}

    return Body({"headers": []}, receive, 1 << 20, Held(1 << 20))


async def test_a_body_that_trickles_is_refused(clock: Clock) -> None:
    body = sent(clock, 1000, b"x", 1.0)
    with pytest.raises(RequestTimeoutError):
        await body.gather()
    assert SILENCE_S < clock.now_s < SILENCE_S + 2
    assert isinstance(body.fault, RequestTimeoutError)


async def test_a_slow_uplink_that_moves_is_served(clock: Clock) -> None:
    body = sent(clock, 300, b"x" * RATE_BYTES_S * 2, 1.0)
    await body.gather()
    assert clock.now_s == 300


async def test_a_client_that_says_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.server.body.SILENCE_S", 0.01)

    async def receive() -> Any:
        await asyncio.Event().wait()

    with pytest.raises(RequestTimeoutError):
        await Body({"headers": []}, receive, 100, Held(100)).gather()


async def test_what_all_bodies_hold_is_one_sum_and_is_given_back(clock: Clock) -> None:
    held = Held(1 << 20)
    bodies = [sent(clock, 5, b"x" * 160_000, 0.1) for _ in range(2)]
    for body in bodies:
        body._held = held
    await bodies[0].gather()
    with pytest.raises(OverloadedError):
        await bodies[1].gather()
    bodies[1].close()
    assert held.bytes > 700_000
    bodies[0].close()
    assert held.bytes == 0
