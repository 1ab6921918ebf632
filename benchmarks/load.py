"""A light load generator for streamed chat: raw HTTP/1.1 over asyncio, one connection a worker.

It shares the machine with what it measures, so that it must cost little: it counts server-sent
events and takes times, and parses no JSON.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

KEY = "sk-bench"


@dataclass
class Result:
    """What one run saw; times in seconds."""

    requests: int
    wall_s: float = 0.0
    first_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    cpu_ms: float = 0.0  # processor time a stream, of all processes of the server
    door_ms: float = 0.0  # likewise, of the process that relays
    share: float = 1.0  # its requests a second over those of plain vLLM beside it
    added_ms: float = 0.0  # what it adds to the time of plain vLLM's first event

    @property
    def requests_per_s(self) -> float:
        """Requests finished a second."""
        return self.requests / self.wall_s

    @property
    def first_ms(self) -> float:
        """Median time to the first event."""
        return statistics.median(self.first_s) * 1000

    @property
    def gap_ms(self) -> float:
        """Median time between events."""
        return statistics.median(self.gaps_s) * 1000

    def compare(self, before: Result, after: Result) -> None:
        """Compare it with plain vLLM's turns before and after it, taken as one."""
        self.share = self.requests / self.wall_s * (before.wall_s + after.wall_s) / 2
        self.share /= before.requests
        plain_ms = statistics.median(before.first_s + after.first_s) * 1000
        self.added_ms = self.first_ms - plain_ms


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def begin(self, request: bytes) -> asyncio.Future[None]:
        """Send a request; the future is done when its answer has ended."""
        self.done = asyncio.get_running_loop().create_future()
        self.times: list[float] = []
        self._tail = self.status = b""
        self.transport.write(request)
        return self.done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.status = self.status or data[9:12]
        if b"data: " in data:
            self.times.append(time.perf_counter())
        self._tail = (self._tail + data)[-7:]
        ended = self._tail.endswith(b"\r\n0\r\n\r\n") or self.status != b"200"
        if ended and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("closed in the middle of an answer"))


async def run(port: int, body: Mapping[str, object], *, concurrency: int, requests: int) -> Result:
    """Send `requests` times `body` to /v1/chat/completions over `concurrency` connections."""
    payload = json.dumps(body)
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/json\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Length: {len(payload)}\r\n\r\n{payload}"
    ).encode()
    left = requests
    result = Result(requests)

    async def worker() -> None:
        nonlocal left
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, "127.0.0.1", port)
        while left > 0:
            left -= 1
            began = time.perf_counter()
            await connection.begin(request)
            if connection.status != b"200" or not connection.times:
                raise SystemExit(f"port {port}: an answer was no stream")
            result.first_s.append(connection.times[0] - began)
            result.gaps_s += [after - before for before, after in pairwise(connection.times)]
        connection.transport.close()

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    result.wall_s = time.perf_counter() - began
    return result
