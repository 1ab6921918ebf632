"""Admission: the one mechanism by which every role limits its load.

N slots, a bounded first-come queue and a deadline for the wait. Past them a request is refused
at once with `OverloadedError`, which becomes 429 with `retry-after`. More expensive requests take
more slots. BentoML's own limits do not apply to mounted applications (bentoml issue 5246).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
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


@dataclass(frozen=True)
class _Turn:
    """A request in a queue."""

    granted: asyncio.Future[None]
    weight: int


class Admission:
    """Slots with a bounded queue; belongs to one event loop.

    Heavy requests, which take several slots, get at most half of the slots and half of the queue
    together: however much a few callers ask for, others have the rest. Light ones may overtake
    waiting heavy ones, but not take the slots reserved for the first of those.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.in_use = 0
        self._heavy_in_use = 0
        self._light: deque[_Turn] = deque()
        self._heavy: deque[_Turn] = deque()
        self._mean_hold_s = _FIRST_GUESS_S

    @property
    def waiting(self) -> int:
        """How many requests are in the queue."""
        return len(self._light) + len(self._heavy)

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
        return not self._queue(weight) and self._fits(weight)

    async def acquire(self, weight: int = 1) -> None:
        """Take `weight` slots, after the queue if need be; OverloadedError past its bounds."""
        if self.has_room(weight):
            self._take(weight)
            return
        queue = self._queue(weight)
        places = self.limits.queue // 2 if queue is self._heavy else self.limits.queue
        if self.waiting >= self.limits.queue or len(queue) >= places:
            raise self._overloaded("every slot is taken and the queue is full")
        turn = _Turn(asyncio.get_running_loop().create_future(), weight)
        queue.append(turn)
        try:
            async with asyncio.timeout(self.limits.deadline_s):
                await turn.granted
        except TimeoutError as exc:
            self._give_up(turn)
            raise self._overloaded(
                f"no slot became free within {self.limits.deadline_s:g} s"
            ) from exc
        except asyncio.CancelledError:
            self._give_up(turn)
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

    def _queue(self, weight: int) -> deque[_Turn]:
        return self._heavy if weight > 1 else self._light

    def _fits(self, weight: int) -> bool:
        if weight > 1:
            return self._may_be_heavy(weight) and self.in_use + weight <= self.limits.now
        first = self._heavy[0].weight if self._heavy else 0
        due = first if first and self._may_be_heavy(first) else 0
        return self.in_use + 1 + due <= self.limits.now

    def _may_be_heavy(self, weight: int) -> bool:
        return self._heavy_in_use + weight <= self.limits.now // 2

    def _take(self, weight: int) -> None:
        self.in_use += weight
        if weight > 1:
            self._heavy_in_use += weight

    def _grant(self) -> None:
        """Grant what fits, first come first served among the heavy and among the light."""
        for queue in (self._heavy, self._light):
            while queue:
                turn = queue[0]
                if not turn.granted.done():
                    if not self._fits(turn.weight):
                        break
                    self._take(turn.weight)
                    turn.granted.set_result(None)
                queue.popleft()

    def _give_up(self, turn: _Turn) -> None:
        if turn.granted.done() and not turn.granted.cancelled():
            self.release(turn.weight)  # granted in the same moment: pass it on
        elif turn in self._queue(turn.weight):
            self._queue(turn.weight).remove(turn)
            self._grant()  # slots may have been kept for it

    def _overloaded(self, why: str) -> OverloadedError:
        return OverloadedError(
            f"The server is at its limit of {self.limits.now} concurrent requests: {why}. "
            "Please try again later.",
            retry_after_s=self.retry_after_s(),
        )
