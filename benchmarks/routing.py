"""A simulation of the routing: the real pools, with simulated backends and a simulated clock.

A backend works on `SLOTS` requests and lets `QUEUE` wait, the defaults of a role; past them it
refuses. A request takes as long as plain vLLM took beside as many others (docs/benchmarks.md: the
first event, then 256 tokens), times an exponential variate, since answers differ in length.
Gateways know what they have sent themselves and nothing of each other, and hear of a backend that
ends from their own probes or when they cannot connect.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Final

import numpy as np

from services.backends.backend import Backend
from services.backends.pools import AHEAD, Pool
from services.errors import ServiceError
from services.settings.sections import GatewaySettings, RoleSettings

SLOTS: Final = RoleSettings().slots
QUEUE: Final = RoleSettings().queue
_TOKENS: Final = 256
_MEASURED: Final = {1: (5.3, 1.5), 8: (12.4, 1.74), 32: (34.93, 2.89)}  # ms, by requests at once
_TOOK_S: Final = [(first_ms + _TOKENS * gap_ms) / 1000 for first_ms, gap_ms in _MEASURED.values()]
_CACHED: Final = 256  # conversations or voices in a backend's cache
_SAMPLES: Final = 200
_PROBE_S: Final = GatewaySettings().probe_interval_s


@dataclass(frozen=True)
class Case:
    """What is simulated."""

    backends: int = 1000
    gateways: int = 1  # which share the requests evenly
    load: float = 0.75  # requests that a backend has at work on average, as a share of its slots
    subjects: int = 20_000  # conversations or voices that requests belong to, each as likely
    affinity: bool = True  # whether gateways heed them
    ahead: int = AHEAD  # BENTOVOX_GATEWAY__AFFINITY_AHEAD
    requests: int = 150_000
    replaced: float = 0.0  # share of the backends that ends, at once, in the middle
    drain_s: float = 0.0  # how long these still serve while their `/readyz` says that they end


@dataclass
class _Server:
    """A backend as it is, whatever gateways think of it."""

    at_work: int = 0
    waiting: deque[tuple[float, Backend]] = field(default_factory=deque)
    closed: bool = False
    cache: dict[int, bool] = field(default_factory=dict)  # the one used last is the last

    @property
    def holds(self) -> int:
        return self.at_work + len(self.waiting)

    def has_cached(self, subject: int) -> bool:
        """Whether it has its cache; from now on it does."""
        hit = self.cache.pop(subject, False)
        self.cache[subject] = True
        if len(self.cache) > _CACHED:
            del self.cache[next(iter(self.cache))]
        return hit


def took_s(at_work: int) -> float:
    """Return the mean time of a request beside `at_work` requests, itself included."""
    return float(np.interp(at_work, list(_MEASURED), _TOOK_S))


class Simulation:
    """What came of the requests of a case; the same for the same case."""

    def __init__(self, case: Case) -> None:
        self.apart: list[int] = []  # requests at a backend, the most less the fewest, over time
        self.waits_s: list[float] = []  # of each request, for a slot
        self.hits = 0  # of requests that came again, those whose backend had their cache
        self.again = 0  # requests of a conversation (or voice) that had been there before
        self.refused = 0  # those that found slots and queue full
        self.moved = 0  # those that were sent elsewhere because a backend had gone
        self.lost = 0  # those that found two backends gone
        self._case = case
        self._random = random.Random(1)  # noqa: S311
        self._servers = [_Server() for _ in range(case.backends)]
        self._pools = [self._pool() for _ in range(case.gateways)]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._now_s = 0.0
        self._known: set[int] = set()  # subjects
        self._run()

    @property
    def hit_share(self) -> float:
        """Hits, as a share of what could be one."""
        return self.hits / max(1, self.again)

    def _pool(self) -> Pool:
        """Return the pool of a gateway; each hears of the backends in an order of its own."""
        urls = [f"http://10.0.{n // 250}.{n % 250}:3000" for n in range(self._case.backends)]
        pool = Pool("chat", urls, GatewaySettings(), self._case.ahead)
        for backend in self._random.sample(pool.backends, len(urls)):
            backend.mark(ready=True)
        return pool

    def _at(self, time_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), what))

    def _run(self) -> None:
        case = self._case
        at_work = case.load * SLOTS
        rate = case.backends * at_work / took_s(round(at_work))
        time_s = 0.0
        for _ in range(case.requests):
            time_s += self._random.expovariate(rate)
            self._at(time_s, self._arrive)
        for number in range(_SAMPLES):  # from the time on when it is as full as it gets
            self._at(time_s * (1 + number / _SAMPLES) / 2, self._look)
        replaced = round(case.replaced * case.backends)
        for number in self._random.sample(range(case.backends), replaced):
            self._replace(number, time_s / 2)
        while self._events:
            self._now_s, _, what = heapq.heappop(self._events)
            what()

    def _look(self) -> None:
        held = [one.holds for one in self._servers if not one.closed]
        self.apart.append(max(held) - min(held))

    def _replace(self, number: int, begins_s: float) -> None:
        close = partial(setattr, self._servers[number], "closed", True)  # noqa: FBT003
        self._at(begins_s + self._case.drain_s, close)
        for pool in self._pools:
            probed_s = begins_s + self._random.uniform(0, _PROBE_S)
            self._at(probed_s, partial(pool.backends[number].mark, ready=False))

    def _arrive(self) -> None:
        subject = self._random.randrange(self._case.subjects)
        pool = self._random.choice(self._pools)
        affinity = f"conversation {subject}" if self._case.affinity else None
        gone: Backend | None = None
        for _ in range(2):
            try:
                backend = pool.pick(None, affinity, besides=gone)
            except ServiceError:
                break
            if not self._server(backend).closed:
                self._take(backend, subject)
                return
            backend.mark(ready=False)
            self.moved += gone is None
            gone = backend
        self.lost += 1

    def _take(self, backend: Backend, subject: int) -> None:
        server = self._server(backend)
        if server.holds >= SLOTS + QUEUE:
            self.refused += 1
            return
        self.hits += server.has_cached(subject)
        self.again += subject in self._known
        self._known.add(subject)
        backend.count(1)
        server.waiting.append((self._now_s, backend))
        self._next(server)

    def _server(self, backend: Backend) -> _Server:
        return self._servers[int(backend.name.rpartition("-")[2])]

    def _next(self, server: _Server) -> None:
        while server.waiting and server.at_work < SLOTS:
            came_s, backend = server.waiting.popleft()
            server.at_work += 1
            self.waits_s.append(self._now_s - came_s)
            takes_s = took_s(server.at_work) * self._random.expovariate(1)
            self._at(self._now_s + takes_s, partial(self._end, server, backend))

    def _end(self, server: _Server, backend: Backend) -> None:
        server.at_work -= 1
        backend.count(-1)
        self._next(server)
