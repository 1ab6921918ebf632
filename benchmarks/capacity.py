"""What many backends cost a gateway, and how several gateways choose among a thousand.

Times are those of the processor. It runs in the environment that is served.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import sys
import time
import timeit
from collections.abc import Callable, Iterable
from itertools import count, product

import httpx
import uvloop

from benchmarks import relay, report
from benchmarks.contestants import Server, Service, free_port, running
from benchmarks.load import run
from benchmarks.routing import Case, Simulation
from services.backends.pools import AHEAD, Pool
from services.server.telemetry import merge, render
from services.settings.sections import GatewaySettings

_STREAMS = GatewaySettings().slots
_PROBES = 3000
_SHORT, _LONG = 32, 256  # events of a stream
_GPUS = (1, 10, 100, 1000)
_TOKENS_S = (1000, 3000, 10_000)
_ANSWER = 256  # tokens
_SCRAPE_S = 15  # the chart's serviceMonitor.interval
_HELLO = {
    "model": "bentovox-demo",
    "stream": True,
    "max_tokens": 8,
    "messages": [{"role": "user", "content": "Hello"}],
}


def main(arguments: list[str]) -> None:
    options = report.parser("capacity", __doc__).parse_args(arguments)
    logging.disable()
    short_ms, long_ms = (_stream_ms(events) for events in (_SHORT, _LONG))
    event_us = (long_ms - short_ms) / (_LONG - _SHORT) * 1000
    request_ms = short_ms - _SHORT * event_us / 1000
    token_us = event_us + request_ms * 1000 / _ANSWER
    picks = ", ".join(f"{_pick_us(number):.0f} µs of {number}" for number in (10, 100, 1000))
    port, backend_port = free_port(), free_port()
    chat = Service("chat", sys.executable)
    # Streams that are long are all open at once.
    backend = relay.serving("backend", backend_port, backend_port, _LONG)
    gateway = relay.serving("ours", port, backend_port)
    with running(backend, gateway, chat):
        files, kib = uvloop.run(_open_streams(gateway))
        probe_ms, probed_ms = uvloop.run(_probe_ms(gateway))
        uvloop.run(run(chat.port, _HELLO, concurrency=1, requests=1))
        text = httpx.get(f"{chat.url}/metrics").content
    scrape_ms = _merge_ms(text)
    probes = f"{probe_ms * 1000:.0f} µs, and {probed_ms * 1000:.0f} µs in the backend"
    scrapes = f"{scrape_ms:.1f} ms, for the {len(text) / 1024:.0f} KiB of a chat role"
    costs = (
        ("a request, without its events", f"{request_ms:.2f} ms"),
        ("an event of a stream, as a rule a token", f"{event_us:.1f} µs"),
        ("the choice of a backend, in the above", picks),
        ("an open stream", f"{files:.1f} open files, {kib:.0f} KiB"),
        ("a probe, each second for each backend", probes),
        ("a scrape of `/metrics`, for each backend", scrapes),
    )
    report.write(
        options.out,
        "capacity",
        None,
        costs=report.table(("what", "costs a gateway"), costs),
        gpus=_gpus(token_us, probe_ms / 1000, scrape_ms / 1000),
        token=f"{token_us:.1f}",
        spread=_spread(),
        replaced=_replaced(),
    )


def _stream_ms(events: int) -> float:
    """Return what the gateway spends on a stream of so many events."""
    port, backend_port = free_port(), free_port()
    gateway = {relay.GATEWAY: relay.serving("ours", port, backend_port)}
    (turns,) = relay.costs_ms(gateway, backend_port, events).values()
    return statistics.median(turns)


def _pick_us(backends: int) -> float:
    """Return what the gateway's questions about one request take."""
    urls = [f"http://10.0.{n // 250}.{n % 250}:3000" for n in range(backends)]
    pool = Pool("chat", urls, GatewaySettings())
    for one in pool.backends:
        one.mark(ready=True)
    numbers = count()

    def ask() -> None:
        if pool.ready and not pool.needs_model and pool.has_choice:
            chosen = pool.pick(None, f"conversation {next(numbers)}")
            chosen.count(1)
            chosen.count(-1)

    return _best_s(ask, 2000) * 1e6


def _merge_ms(text: bytes) -> float:
    """Return what the metrics of one backend add to the gateway's own."""
    backends = {f"chat-{number}": text for number in range(20)}
    return _best_s(lambda: merge(render(), backends), 1) * 1000 / len(backends)


def _best_s(what: Callable[[], object], times: int) -> float:
    return min(timeit.repeat(what, timer=time.process_time, number=times, repeat=5)) / times


async def _probe_ms(server: Server) -> tuple[float, float]:
    """Return what a probe costs the gateway, and the role that answers."""
    (one,) = Pool("chat", [server.url], GatewaySettings()).backends
    await one.probe()
    before_s = time.process_time(), server.spent_s()
    for _ in range(_PROBES):
        await one.probe()
    spent_s = time.process_time() - before_s[0], server.spent_s() - before_s[1]
    one.connections.close()
    return spent_s[0] * 1000 / _PROBES, spent_s[1] * 1000 / _PROBES


async def _open_streams(server: Server) -> tuple[float, float]:
    """Return what each of many open streams holds: files, and KiB of memory."""
    (process, *_) = server.processes()
    before = most = process.num_fds(), process.memory_info().rss
    streams = asyncio.ensure_future(run(server.port, {}, concurrency=_STREAMS, requests=_STREAMS))
    while not streams.done():
        await asyncio.sleep(0.05)
        most = max(most, (process.num_fds(), process.memory_info().rss))
    await streams
    return (most[0] - before[0]) / _STREAMS, (most[1] - before[1]) / _STREAMS / 1024


def _gpus(token_us: float, probe_s: float, scrape_s: float) -> str:
    rows = [
        (
            gpus,
            *(f"{gpus * tokens * token_us / 1e6:.2f}" for tokens in _TOKENS_S),
            f"{gpus * probe_s:.1%}",
            f"{gpus * scrape_s:.2f} s, {gpus * scrape_s / _SCRAPE_S:.1%}",
        )
        for gpus in _GPUS
    ]
    columns = (
        "GPUs, a backend each",
        *(f"cores at {tokens} tokens/s each" for tokens in _TOKENS_S),
        "probes, of a core of each gateway",
        f"a scrape, and its share of a core every {_SCRAPE_S} s",
    )
    return report.table(columns, rows)


def _spread() -> str:
    return report.table(
        ("alike by", "gateways", "ahead", "most less fewest", "wait, p99, ms", "429", "hits"),
        map(_spread_row, _spread_cases()),
    )


def _spread_cases() -> Iterable[Case]:
    many = (1, 4, 16)
    yield from (Case(gateways=n, affinity=False) for n in many)
    for subjects in (20_000, 20):
        yield from (Case(gateways=n, subjects=subjects) for n in many)
        yield from (Case(gateways=n, subjects=subjects, ahead=AHEAD // n) for n in many[1:])


def _spread_row(case: Case) -> tuple[object, ...]:
    seen = Simulation(case)
    kind = "a conversation in 20 000" if case.subjects > 1000 else "one of 20 voices"
    return (
        kind if case.affinity else "no affinity",
        case.gateways,
        case.ahead if case.affinity else "",
        f"{statistics.mean(seen.apart):.1f}",
        f"{statistics.quantiles(seen.waits_s, n=100)[-1] * 1000:.0f}",
        f"{seen.refused / case.requests:.1%}",
        f"{seen.hit_share:.0%}",
    )


def _replaced() -> str:
    rows = []
    for share, drain_s in product((0.01, 0.25), (0.0, 3.0)):
        ends = {"replaced": share, "drain_s": drain_s}
        case = Case(gateways=4, ahead=AHEAD // 4, load=0.5, requests=200_000, **ends)
        seen = Simulation(case)
        rows.append((f"{share:.0%}", f"{drain_s:g} s", case.requests, seen.moved, seen.lost))
    return report.table(("end at once", "`DRAIN_S`", "requests", "sent elsewhere", "lost"), rows)
