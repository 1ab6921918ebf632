"""A simulation of the routing: the real pools, with simulated backends and a simulated clock.

A backend works on `SLOTS` requests and lets `QUEUE` wait, the defaults of a role; past them it
refuses. A request takes as long as plain vLLM took beside as many others (docs/benchmarks.md: the
first event, then 256 tokens), times an exponential variate, since answers differ in length.
Gateways know what they have sent themselves and nothing of each other, and hear of a backend that
ends from their own probes or when they cannot connect. `python -m benchmarks.routing` prints JSON.
"""

from __future__ import annotations

import heapq
import json
import logging
import random
import statistics
from collections import OrderedDict, deque
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Final

import numpy as np

from services.backends.pools import AHEAD, Pool
from services.errors import ServiceError
from services.settings.sections import GatewaySettings, RoleSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.backends.backend import Backend

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
    """What is simulated.

    Attributes:
        backends: how many there are.
        gateways: how many share the requests evenly.
        load: requests that a backend has at work on average, as a share of its slots.
        subjects: how many conversations (or voices) the requests belong to, each as likely.
        affinity: whether gateways heed them.
        ahead: BENTOVOX_GATEWAY__AFFINITY_AHEAD.
        requests: how many come.
        replaced: share of the backends that ends, at once, in the middle.
        drain_s: how long these still serve while their `/readyz` says that they end.
    """

    backends: int = 1000
    gateways: int = 1
    load: float = 0.75
    subjects: int = 20_000
    affinity: bool = True
    ahead: int = AHEAD
    requests: int = 150_000
    replaced: float = 0.0
    drain_s: float = 0.0


@dataclass
class Seen:
    """What came of it.

    Attributes:
        apart: requests at a backend, the most less the fewest, sampled over time.
        waits_s: how long each request waited for a slot.
        hits: of requests that came again, those whose backend had their cache.
        again: requests of a conversation (or voice) that had been there before.
        refused: those that found slots and queue full.
        moved: those that were sent elsewhere because a backend had gone.
        lost: those that found two backends gone.
    """

    apart: list[int] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    hits: int = 0
    again: int = 0
    refused: int = 0
    moved: int = 0
    lost: int = 0

    @property
    def wait_p99_ms(self) -> float:
        """The wait that one request in a hundred exceeds."""
        return statistics.quantiles(self.waits_s, n=100)[-1] * 1000

    @property
    def hit_share(self) -> float:
        """Hits, as a share of what could be one."""
        return self.hits / max(1, self.again)


class _Server:
    """A backend as it is, whatever gateways think of it."""

    def __init__(self) -> None:
        self.at_work = 0
        self.waiting: deque[tuple[float, Backend]] = deque()
        self.closed = False
        self.cache: OrderedDict[int, None] = OrderedDict()

    @property
    def holds(self) -> int:
        return self.at_work + len(self.waiting)

    def has_cached(self, subject: int) -> bool:
        """Whether it has its cache; from now on it does."""
        hit = subject in self.cache
        self.cache[subject] = None
        self.cache.move_to_end(subject)
        if len(self.cache) > _CACHED:
            self.cache.popitem(last=False)
        return hit


def took_s(at_work: int) -> float:
    """Return the mean time of a request beside `at_work` requests, itself included."""
    return float(np.interp(at_work, list(_MEASURED), _TOOK_S))


def simulate(case: Case) -> Seen:
    """Return what came of the requests of a case; the same for the same case."""
    return _Simulation(case).run()


class _Simulation:
    def __init__(self, case: Case) -> None:
        self._case = case
        self._seen = Seen()
        self._random = random.Random(1)  # noqa: S311
        self._servers = [_Server() for _ in range(case.backends)]
        self._pools = [self._pool() for _ in range(case.gateways)]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._now_s = 0.0
        self._known: set[int] = set()  # subjects

    def _pool(self) -> Pool:
        """Return the pool of a gateway; each hears of the backends in an order of its own."""
        urls = [f"http://10.0.{n // 250}.{n % 250}:3000" for n in range(self._case.backends)]
        pool = Pool("chat", urls, GatewaySettings(), self._case.ahead)
        for backend in self._random.sample(pool.backends, len(urls)):
            backend.mark(ready=True)
        return pool

    def _at(self, time_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), what))

    def run(self) -> Seen:
        case, seen = self._case, self._seen
        at_work = case.load * SLOTS
        rate = case.backends * at_work / took_s(round(at_work))
        time_s = 0.0
        for _ in range(case.requests):
            time_s += self._random.expovariate(rate)
            self._at(time_s, self._arrive)
        for number in range(_SAMPLES):  # from the time on when it is as full as it gets
            self._at(time_s * (1 + number / _SAMPLES) / 2, self._look)
        for number in self._random.sample(
            range(case.backends), round(case.replaced * case.backends)
        ):
            self._replace(number, time_s / 2)
        while self._events:
            self._now_s, _, what = heapq.heappop(self._events)
            what()
        return seen

    def _look(self) -> None:
        held = [one.holds for one in self._servers if not one.closed]
        self._seen.apart.append(max(held) - min(held))

    def _replace(self, number: int, begins_s: float) -> None:
        server = self._servers[number]
        self._at(begins_s + self._case.drain_s, lambda: setattr(server, "closed", True))
        for pool in self._pools:
            probed_s = begins_s + self._random.uniform(0, _PROBE_S)
            backend = pool.backends[number]
            self._at(probed_s, lambda one=backend: one.mark(ready=False))  # type: ignore[misc]

    def _arrive(self) -> None:
        subject = self._random.randrange(self._case.subjects)
        pool = self._random.choice(self._pools)
        affinity = f"conversation {subject}" if self._case.affinity else None
        backend = pool.pick(None, affinity)
        if self._server(backend).closed:
            self._seen.moved += 1
            backend.mark(ready=False)
            try:
                backend = pool.pick(None, affinity, besides=backend)
            except ServiceError:
                self._seen.lost += 1
                return
        server = self._server(backend)
        if server.closed:
            self._seen.lost += 1
            backend.mark(ready=False)
        elif server.holds >= SLOTS + QUEUE:
            self._seen.refused += 1
        else:
            self._take(server, backend, subject)

    def _server(self, backend: Backend) -> _Server:
        return self._servers[int(backend.name.rpartition("-")[2])]

    def _take(self, server: _Server, backend: Backend, subject: int) -> None:
        self._seen.hits += server.has_cached(subject)
        self._seen.again += subject in self._known
        self._known.add(subject)
        backend.count(1)
        server.waiting.append((self._now_s, backend))
        self._next(server)

    def _next(self, server: _Server) -> None:
        while server.waiting and server.at_work < SLOTS:
            came_s, backend = server.waiting.popleft()
            server.at_work += 1
            self._seen.waits_s.append(self._now_s - came_s)
            takes_s = took_s(server.at_work) * self._random.expovariate(1)
            self._at(self._now_s + takes_s, lambda one=backend: self._end(server, one))  # type: ignore[misc]

    def _end(self, server: _Server, backend: Backend) -> None:
        server.at_work -= 1
        backend.count(-1)
        self._next(server)


def _shown(case: Case) -> dict[str, object]:
    seen = simulate(case)
    return {
        **asdict(case),
        "apart": statistics.mean(seen.apart),
        "wait_p99_ms": seen.wait_p99_ms,
        "hits": seen.hit_share,
        "refused": seen.refused / case.requests,
        "moved": seen.moved,
        "lost": seen.lost,
    }


def main() -> None:
    """Print what came of each case."""
    logging.disable()
    many = (1, 4, 16)
    cases = [Case(gateways=n, affinity=False) for n in many]
    for subjects in (20_000, 20):
        cases += [Case(gateways=n, subjects=subjects) for n in many]
        cases += [Case(gateways=n, subjects=subjects, ahead=AHEAD // n) for n in many[1:]]
    replaced = [
        Case(gateways=4, ahead=AHEAD // 4, load=0.5, requests=200_000, replaced=share, drain_s=s)
        for share in (0.01, 0.25)
        for s in (0.0, 3.0)
    ]
    print(json.dumps({"spread": [*map(_shown, cases)], "replaced": [*map(_shown, replaced)]}))


if __name__ == "__main__":
    main()
