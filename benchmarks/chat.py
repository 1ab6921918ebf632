"""Chat: requests a second, time to first event and between events, beside plain vLLM."""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import uvloop

from benchmarks.load import run
from benchmarks.servers import NAME

if TYPE_CHECKING:
    from benchmarks.load import Result
    from benchmarks.servers import Server

CONCURRENCY = (1, 8, 32)
_REQUESTS = {1: 24, 8: 120, 32: 480}
_TOKENS = 32
_BODY: dict[str, object] = {
    "model": NAME,
    "stream": True,
    "max_tokens": _TOKENS,
    "ignore_eos": True,
    "temperature": 0,
    "messages": [{"role": "user", "content": "Hello"}],
}


@dataclass
class Line:
    """One server at one concurrency: its rounds, and plain vLLM's in the same rounds."""

    server: str
    concurrency: int
    rounds: list[Result] = field(default_factory=list)
    plain: list[Result] = field(default_factory=list)

    @property
    def requests_per_s(self) -> float:
        """Median over the rounds."""
        return statistics.median(r.requests_per_s for r in self.rounds)

    @property
    def share(self) -> float:
        """Median over the rounds of this server's requests/s over plain vLLM's beside it."""
        return statistics.median(self.shares)

    @property
    def shares(self) -> list[float]:
        """The ratio of each round."""
        return [
            r.requests_per_s / p.requests_per_s
            for r, p in zip(self.rounds, self.plain, strict=True)
        ]

    @property
    def first_ms(self) -> float:
        """Median time to the first event, ms."""
        return statistics.median(r.median_first_ms() for r in self.rounds)

    @property
    def added_first_ms(self) -> float:
        """Median over the rounds of what this server adds to plain vLLM's first event, ms."""
        return statistics.median(
            r.median_first_ms() - p.median_first_ms()
            for r, p in zip(self.rounds, self.plain, strict=True)
        )

    @property
    def gap_ms(self) -> float:
        """Median time between events, ms."""
        return statistics.median(r.median_gap_ms() for r in self.rounds)


def measure(servers: list[Server], rounds: int) -> list[Line]:
    """Measure all servers in turn, `rounds` times; the first one is plain vLLM.

    Before and after each turn of another server plain vLLM runs too, and the two are averaged:
    what the machine does in the meantime hits both.
    """
    return uvloop.run(_measure(servers, rounds))


async def _measure(servers: list[Server], rounds: int) -> list[Line]:
    lines = {(s.name, c): Line(s.name, c) for c in CONCURRENCY for s in servers}
    plain = servers[0]
    for server in servers:  # warm
        await run("127.0.0.1", server.port, _BODY, concurrency=8, requests=64)
    for number in range(rounds):
        for concurrency in CONCURRENCY:
            before = await _one(plain, concurrency)
            for server in servers[1:]:
                result = await _one(server, concurrency)
                after = await _one(plain, concurrency)
                line = lines[server.name, concurrency]
                line.rounds.append(result)
                line.plain.append(_between(before, after))
                before = after
            first = lines[plain.name, concurrency]
            first.rounds.append(before)
            first.plain.append(before)
        print(f"  chat: round {number + 1} of {rounds} done", flush=True)
    return list(lines.values())


async def _one(server: Server, concurrency: int) -> Result:
    result = await run(
        "127.0.0.1",
        server.port,
        _BODY,
        concurrency=concurrency,
        requests=_REQUESTS[concurrency],
    )
    if result.bad:
        raise SystemExit(f"{server.name}: {result.bad} answers were no stream")
    await asyncio.sleep(0.2)
    return result


def _between(before: Result, after: Result) -> Result:
    wall_s = (before.wall_s + after.wall_s) / 2
    return type(before)(
        before.requests, wall_s, before.first_s + after.first_s, before.gaps_s + after.gaps_s
    )
