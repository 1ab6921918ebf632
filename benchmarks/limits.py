"""What a gateway costs that has many backends; `python -m benchmarks.limits` prints JSON.

Times are those of the processor. It needs what the stack needs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import statistics
import sys
import time
import timeit
from itertools import count
from typing import TYPE_CHECKING, Any

import httpx
import uvloop

from benchmarks import relay
from benchmarks.contestants import Service, free_port, running
from benchmarks.load import run
from services.backends.pools import Pool
from services.server.telemetry import merge, render
from services.settings.sections import GatewaySettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.contestants import Server

_MANY = 1000
_STREAMS = GatewaySettings().slots
_PROBES = 3000


def pick_us(backends: int) -> float:
    """Return what the gateway's questions about one request take."""
    urls = [f"http://10.0.{n // 250}.{n % 250}:3000" for n in range(backends)]
    pool = Pool("chat", urls, GatewaySettings())
    for one in pool.backends:
        one.mark(ready=True)
    numbers = count()

    def ask() -> None:
        if pool.ready and not pool.needs_model and pool.has_choice:
            with pool.pick(None, f"conversation {next(numbers)}").busy():
                pass

    return _best_s(ask, 2000) * 1e6


def merge_ms(text: bytes) -> float:
    """Return what the metrics of one backend add to the gateway's own."""
    backends = {f"chat-{number}": text for number in range(20)}
    return _best_s(lambda: merge(render(), backends), 1) * 1000 / len(backends)


def _best_s(what: Callable[[], object], times: int) -> float:
    return min(timeit.repeat(what, timer=time.process_time, number=times, repeat=5)) / times


async def probe_ms(server: Server) -> dict[str, float]:
    """Return what a probe costs the gateway and the role that answers."""
    (one,) = Pool("chat", [server.url], GatewaySettings()).backends
    await one.probe()
    before_s = time.process_time(), server.spent_s()
    for _ in range(_PROBES):
        await one.probe()
    spent_s = time.process_time() - before_s[0], server.spent_s() - before_s[1]
    one.connections.close()
    return dict(zip(("gateway", "role"), (1000 * s / _PROBES for s in spent_s), strict=True))


async def open_streams(server: Server) -> dict[str, float]:
    """Return what each of many open streams holds: files, and KiB of memory."""
    (process, *_) = server.processes()
    before = process.num_fds(), process.memory_info().rss
    streams = asyncio.ensure_future(run(server.port, {}, concurrency=_STREAMS, requests=_STREAMS))
    most = before
    while not streams.done():
        await asyncio.sleep(0.05)
        most = max(most, (process.num_fds(), process.memory_info().rss))
    await streams
    return {
        "files": (most[0] - before[0]) / _STREAMS,
        "kib": (most[1] - before[1]) / _STREAMS / 1024,
    }


def stream_ms(events: int) -> float:
    """Return what the gateway spends on a stream of so many events."""
    port, backend_port = free_port(), free_port()
    gateway = {relay.GATEWAY: relay.serving("ours", "on", port, backend_port)}
    (turns,) = relay.costs_ms(gateway, backend_port, events).values()
    return statistics.median(turns)


def main() -> None:
    """Print all figures."""
    logging.disable()
    short, long = 32, 256
    costs_ms = [stream_ms(short), stream_ms(long)]
    event_us = (costs_ms[1] - costs_ms[0]) / (long - short) * 1000
    figures: dict[str, Any] = {
        "pick_us": {number: pick_us(number) for number in (10, 100, _MANY)},
        "event_us": event_us,
        "request_ms": costs_ms[0] - short * event_us / 1000,
    }
    port, backend_port = free_port(), free_port()
    chat = Service("chat", sys.executable)
    # Streams that are long are all open at once.
    backend = relay.serving("backend", "off", backend_port, backend_port, long)
    gateway = relay.serving("ours", "on", port, backend_port)
    with running(backend, gateway, chat):
        figures["open"] = uvloop.run(open_streams(gateway))
        figures["probe_ms"] = uvloop.run(probe_ms(gateway))
        uvloop.run(run(chat.port, _HELLO, concurrency=1, requests=1))
        text = httpx.get(f"{chat.url}/metrics").content
    figures["metrics"] = {"kib": len(text) / 1024, "ms": merge_ms(text)}
    print(json.dumps(figures))


_HELLO = {
    "model": "bentovox-demo",
    "stream": True,
    "max_tokens": 8,
    "messages": [{"role": "user", "content": "Hello"}],
}


if __name__ == "__main__":
    main()
