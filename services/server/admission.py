"""Admission: the one mechanism by which every role limits its load.

N slots, a bounded first-come queue and a deadline for the wait. Past them a request is refused
at once with `OverloadedError`, which becomes 429 with `retry-after`. More expensive requests take
more slots. BentoML's own limits do not apply to mounted applications (bentoml issue 5246).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.errors import OverloadedError

_SMOOTHING = 0.2
_FIRST_GUESS_S = 1.0


@dataclass(frozen=True)
class Limits:
    """How much a role takes on: `slots` at work, `queue` waiting, each at most `deadline_s`.

    `streams` tells how many the engine can do at once, if it knows.
    """

    slots: int
    queue: int
    deadline_s: float
    streams: Callable[[], int | None] = lambda: None

    @property
    def now(self) -> int:
        """How many can be at work now."""
        return min(self.slots, self.streams() or self.slots)


class Admission:
    """Slots with a bounded queue; belongs to one event loop.

    Heavy requests, which take several slots, get at most half of the slots and half of the queue
    together: however much a few callers ask for, others have the rest. Who waits for that half is
    passed by light ones, but not by other heavy ones: small ones would keep a large one out.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.in_use = 0
        self._heavy_in_use = 0
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()  # weights, and their turns
        self._mean_hold_s = _FIRST_GUESS_S

    @property
    def waiting(self) -> int:
        """How many requests are in the queue."""
        return len(self._queue)

    @property
    def remaining(self) -> int:
        """How many more requests would be accepted now, at work or in the queue."""
        return max(0, self.limits.now + self.limits.queue - self.in_use - self.waiting)

    def retry_after_s(self) -> float:
        """Estimate in seconds when a place will be free, from how long slots were held recently."""
        ahead = self.waiting + 1
        return min(30.0, max(0.05, self._mean_hold_s * ahead / self.limits.now))

    def weight(self, cost: int) -> int:
        """Return the slots that a request of `cost` takes: at least one, at most half of all."""
        return max(1, min(cost, self.limits.now // 2))

    def has_room(self, weight: int = 1) -> bool:
        """Whether `weight` slots could be taken without waiting."""
        if weight > 1 and any(other > 1 for other, _ in self._queue):
            return False
        free = self._allows(weight) and self.in_use + weight <= self.limits.now
        return free and next(self._next(), None) is None

    async def acquire(self, weight: int = 1) -> None:
        """Take `weight` slots, after the queue if need be; OverloadedError past its bounds."""
        if self.has_room(weight):
            self._take(weight)
            return
        heavy = sum(other > 1 for other, _ in self._queue) if weight > 1 else 0
        if self.waiting >= self.limits.queue or (weight > 1 and heavy >= self.limits.queue // 2):
            raise self._overloaded("every slot is taken and the queue is full")
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        turn = weight, granted
        self._queue.append(turn)
        try:
            async with asyncio.timeout(self.limits.deadline_s):
                await granted
        except (TimeoutError, asyncio.CancelledError) as exc:
            if turn in self._queue:
                self._queue.remove(turn)
                self._grant()  # slots may have been kept for it
            elif not granted.cancelled():
                self.release(weight)  # granted in the same moment: pass it on
            if isinstance(exc, TimeoutError):
                raise self._overloaded(
                    f"no slot became free within {self.limits.deadline_s:g} s"
                ) from exc
            raise

    def release(self, weight: int = 1) -> None:
        """Free slots and grant them to the next in the queue."""
        self.in_use -= weight
        if weight > 1:
            self._heavy_in_use -= weight
        self._grant()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot for a block, after waiting in the queue if need be."""
        await self.acquire()
        began = time.monotonic()
        try:
            yield
        finally:
            self.note_hold(time.monotonic() - began)
            self.release()

    def note_hold(self, seconds: float) -> None:
        """Record how long a request held its slots."""
        self._mean_hold_s += _SMOOTHING * (seconds - self._mean_hold_s)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return OpenAI's `x-ratelimit-*-requests` headers for the current state."""
        reset_ms = 0 if self.in_use < self.limits.now else int(self.retry_after_s() * 1000)
        return [
            (b"x-ratelimit-limit-requests", str(self.limits.now + self.limits.queue).encode()),
            (b"x-ratelimit-remaining-requests", str(self.remaining).encode()),
            (b"x-ratelimit-reset-requests", f"{reset_ms}ms".encode()),
        ]

    def _allows(self, weight: int) -> bool:
        """Whether the half for heavy requests has room, or `weight` is light."""
        return weight == 1 or self._heavy_in_use + weight <= self.limits.now // 2

    def _take(self, weight: int) -> None:
        self.in_use += weight
        if weight > 1:
            self._heavy_in_use += weight

    def _next(self) -> Iterator[tuple[int, asyncio.Future[None]]]:
        """Yield, in their order, those in the queue who do not wait for the heavy half."""
        full = False
        for turn in list(self._queue):
            full = full or not self._allows(turn[0])
            if turn[0] == 1 or not full:
                yield turn

    def _grant(self) -> None:
        """Grant what fits, first come first served."""
        for turn in self._next():
            weight, granted = turn
            if self.in_use + weight > self.limits.now:
                break
            self._queue.remove(turn)
            if not granted.done():  # else its client gave up just now
                self._take(weight)
                granted.set_result(None)

    def _overloaded(self, why: str) -> OverloadedError:
        return OverloadedError(
            f"The server is at its limit of {self.limits.now} concurrent requests: {why}. "
            "Please try again later.",
            retry_after_s=self.retry_after_s(),
        )
