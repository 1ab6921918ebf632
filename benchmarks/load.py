"""A light load generator for streamed chat: raw HTTP/1.1 over asyncio, one connection a worker.

It shares the machine with what it measures, so that it must cost little: it counts server-sent
events and takes times, and parses no JSON.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast


@dataclass
class Result:
    """What one run saw; times in seconds."""

    requests: int
    wall_s: float
    first_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    events: int = 0
    bad: int = 0

    @property
    def requests_per_s(self) -> float:
        """Requests finished a second."""
        return self.requests / self.wall_s

    def median_first_ms(self) -> float:
        """Median time to the first event, ms."""
        return statistics.median(self.first_s) * 1000

    def median_gap_ms(self) -> float:
        """Median time between events, ms."""
        return statistics.median(self.gaps_s) * 1000 if self.gaps_s else 0.0


class _Worker(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] | None = None
        self.tail = b""
        self.times: list[float] = []
        self.events = 0
        self.status = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self.status:
            self.status = data[9:12]
        count = data.count(b"data: ")
        if count:
            self.times.append(time.perf_counter())
            self.events += count
        self.tail = (self.tail + data)[-7:]
        ended = self.tail.endswith(b"\r\n0\r\n\r\n")
        if (ended or self.status != b"200") and self.done and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.done and not self.done.done():
            self.done.set_exception(exc or ConnectionError("closed in the middle of an answer"))


async def run(
    host: str, port: int, body: dict[str, object], *, concurrency: int, requests: int
) -> Result:
    """Send `requests` times `body` to /v1/chat/completions over `concurrency` connections."""
    payload = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\n"
        "Content-Type: application/json\r\nAuthorization: Bearer sk-bench\r\n"
        f"Content-Length: {len(payload)}\r\n\r\n"
    ).encode()
    loop = asyncio.get_running_loop()
    left = requests
    result = Result(requests, 0.0)

    async def worker() -> None:
        nonlocal left
        _, protocol = await loop.create_connection(_Worker, host, port)
        assert protocol.transport is not None  # noqa: S101
        while left > 0:
            left -= 1
            protocol.done = loop.create_future()
            protocol.times, protocol.events, protocol.tail, protocol.status = [], 0, b"", b""
            began = time.perf_counter()
            protocol.transport.write(head + payload)
            await protocol.done
            if protocol.status != b"200" or not protocol.times:
                result.bad += 1
                continue
            result.events += protocol.events
            result.first_s.append(protocol.times[0] - began)
            times = protocol.times
            result.gaps_s += [b - a for a, b in pairwise(times)]
        protocol.transport.close()

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    result.wall_s = time.perf_counter() - began
    return result
