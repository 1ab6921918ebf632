"""Chat: requests a second, time to first event and between events, beside plain vLLM."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from benchmarks import report
from benchmarks.contestants import ROOT, Server, free_port
from benchmarks.load import KEY, Result, run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.figure import Figure

PLAIN, ALONE, STACK = "plain vLLM", "Bentovox chat", "Bentovox stack"
_NAME = "bentovox-demo"
REQUESTS = {1: 24, 8: 120, 32: 480}  # by concurrency
MOST = max(REQUESTS)
_AIMS = {ALONE: 0.97, STACK: 0.92}
_ADDED_AIM_MS = 2
_BODY = {
    "model": _NAME,
    "stream": True,
    "max_tokens": 32,
    "ignore_eos": True,
    "temperature": 0,
    "messages": [{"role": "user", "content": "Hello"}],
}


@dataclass
class Line:
    """One server at one concurrency: its result in each round, and plain vLLM's beside it."""

    server: str
    concurrency: int
    rounds: list[tuple[Result, Result]] = field(default_factory=list)

    @property
    def shares(self) -> list[float]:
        """Each round's requests a second over plain vLLM's."""
        return [ours.requests_per_s / plain.requests_per_s for ours, plain in self.rounds]

    @property
    def share(self) -> float:
        """The median of `shares`."""
        return statistics.median(self.shares)

    @property
    def added_ms(self) -> float:
        """What it adds to the time of plain vLLM's first event; the median over the rounds."""
        return statistics.median(ours.first_ms - plain.first_ms for ours, plain in self.rounds)

    def median(self, what: Callable[[Result], float]) -> float:
        """Return the median over the rounds."""
        return statistics.median(what(ours) for ours, _ in self.rounds)


def rate(result: Result) -> float:
    """Return requests a second."""
    return result.requests_per_s


def cpu_ms(result: Result) -> float:
    """Return the processor time of a stream, of all processes of a server."""
    return result.cpu_s / result.requests * 1000


def door_ms(result: Result) -> float:
    """Return the processor time of a stream in the process that relays."""
    return result.door_s / result.requests * 1000


def servers(python: str) -> list[Server]:
    """Return plain vLLM first, then ours, then the peers."""
    plain, chat, stack, command, inner, litellm = (free_port() for _ in range(6))
    bentoml = [python, "-m", "bentoml", "serve"]
    return [
        Server(PLAIN, _vllm(python, plain), plain, "/health"),
        Server(ALONE, [*bentoml, "services.chat.service:Chat", f"--port={chat}"], chat),
        Server(STACK, [*bentoml, "services.stack:Stack", f"--port={stack}"], stack),
        Server(
            "BentoML __command__",
            [*bentoml, "benchmarks.peers.command_proxy:CommandProxy", f"--port={command}"],
            command,
            "/health",
            {"PEER_VLLM_PORT": str(inner), "PEER_VLLM_COMMAND": json.dumps(_vllm(python, inner))},
        ),
        Server(
            "LiteLLM proxy",
            [
                *(str(Path(sys.executable).with_name("litellm")), "--host", "127.0.0.1"),
                *("--port", str(litellm), "--config", _litellm_config(plain)),
            ],
            litellm,
            "/health/liveliness",
            {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": KEY},
        ),
    ]


def _vllm(python: str, port: int) -> list[str]:
    """Return plain vLLM's command; `vllm serve` is this module behind another name."""
    # fmt: off
    return [
        python, "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(ROOT / "services" / "chat" / "demo_model"), "--served-model-name", _NAME,
        "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "float32", "--max-model-len", "2048", "--kv-cache-memory-bytes", "64M",
        "--enforce-eager", "--distributed-executor-backend", "uni",
        "--enable-auto-tool-choice", "--tool-call-parser", "hermes",
        "--shutdown-timeout", "20", "--disable-uvicorn-access-log",
    ]
    # fmt: on


def _litellm_config(port: int) -> str:
    reached = {
        "model": f"hosted_vllm/{_NAME}",
        "api_base": f"http://127.0.0.1:{port}/v1",
        "api_key": "none",
    }
    config = {
        "model_list": [{"model_name": _NAME, "litellm_params": reached}],
        "litellm_settings": {"drop_params": False, "telemetry": False},
    }
    path = Path(tempfile.mkdtemp(), "litellm.yaml")
    path.write_text(json.dumps(config), encoding="utf-8")
    return str(path)


def measure(measured: Sequence[Server], rounds: int) -> list[Line]:
    """Measure all servers in turn, `rounds` times; the first one is plain vLLM.

    Before and after each turn of another server plain vLLM runs too, and the two are averaged:
    what the machine does in the meantime hits both.
    """
    return uvloop.run(_measure(measured, rounds))


async def _measure(measured: Sequence[Server], rounds: int) -> list[Line]:
    plain, *others = measured
    lines = {(s.name, c): Line(s.name, c) for c in REQUESTS for s in measured}
    for server in measured:  # warm
        await run(server.port, _BODY, concurrency=8, requests=64)
    for number in range(rounds):
        for concurrency in REQUESTS:
            before = await _one(plain, concurrency)
            for server in others:
                result = await _one(server, concurrency)
                after = await _one(plain, concurrency)
                lines[server.name, concurrency].rounds.append((result, _mean(before, after)))
                before = after
            lines[plain.name, concurrency].rounds.append((before, before))
        print(f"  chat: round {number + 1} of {rounds} done", flush=True)
    return list(lines.values())


async def _one(server: Server, concurrency: int) -> Result:
    requests = REQUESTS[concurrency]
    before_s = server.spent_s(), server.spent_s(server.door)
    result = await run(server.port, _BODY, concurrency=concurrency, requests=requests)
    result.cpu_s = server.spent_s() - before_s[0]
    result.door_s = server.spent_s(server.door) - before_s[1]
    await asyncio.sleep(0.2)
    return result


def _mean(before: Result, after: Result) -> Result:
    wall_s = (before.wall_s + after.wall_s) / 2
    return Result(
        before.requests, wall_s, before.first_s + after.first_s, before.gaps_s + after.gaps_s
    )


def table(lines: Sequence[Line]) -> str:
    """Return what was measured as a table."""
    columns = (
        *("server", "concurrent", "requests/s", f"share of {PLAIN}", "first event, ms"),
        *("added, ms", "between events, ms"),
    )
    rows = (
        (
            line.server,
            line.concurrency,
            f"{line.median(lambda result: result.requests_per_s):.1f}",
            f"{line.share:.3f} [{min(line.shares):.3f}, {max(line.shares):.3f}]",
            f"{line.median(lambda result: result.first_ms):.2f}",
            f"{line.added_ms:+.2f}",
            f"{line.median(lambda result: result.gap_ms):.2f}",
        )
        for line in lines
    )
    return report.table(columns, rows)


def aims(lines: Sequence[Line]) -> str:
    """Return what was reached of what we aim for."""
    by_key = {(line.server, line.concurrency): line for line in lines}
    rows = []
    for server, aim in _AIMS.items():
        share = by_key[server, MOST].share
        verdict = "reached" if share >= aim else "missed"
        what = f"share of {PLAIN} at {MOST} concurrent"
        rows.append(f"- {server}, {what}: {share:.3f}, aim {aim}: {verdict}.")
    added = by_key[STACK, 1].added_ms
    rows.append(
        f"- Added to the first event at 1 concurrent: {added:.2f} ms, aim {_ADDED_AIM_MS}: "
        f"{'reached' if added < _ADDED_AIM_MS else 'missed'}."
    )
    ours = by_key[STACK, MOST].share
    for (name, concurrency), line in by_key.items():
        if concurrency == MOST and name not in (PLAIN, ALONE, STACK):
            verdict = "ahead of" if ours > line.share else "behind"
            shares = f"({ours:.3f} to {line.share:.3f})"
            rows.append(f"- {verdict} {name} at {MOST} concurrent {shares}.")
    return "\n".join(rows)


def plot(lines: Sequence[Line]) -> Figure:
    """Draw shares of plain vLLM's requests a second, and what is added to its first event."""
    by_name: dict[str, list[Line]] = {}
    for line in lines:
        by_name.setdefault(line.server, []).append(line)
    colors = (report.GREY, report.BLUE, report.NAVY, report.ORANGE, report.RED)
    figure = report.plot(11, 4.2)
    left, right = figure.subplots(1, 2)
    report.bars(left, {n: [line.shares for line in mine] for n, mine in by_name.items()}, colors)
    for (name, mine), color in zip(by_name.items(), colors, strict=True):
        if name != PLAIN:
            added = [line.added_ms for line in mine]
            right.plot(range(len(mine)), added, marker="o", color=color, label=name)
    left.axhline(1, color="#444", linewidth=0.8)
    left.axhline(_AIMS[STACK], color=report.NAVY, linewidth=0.8, linestyle=":")
    right.axhline(0, color="#444", linewidth=0.8)
    right.set_yscale("symlog", linthresh=5)
    title, what = f"Requests a second, share of {PLAIN}", "concurrent streams"
    report.tidy(left, list(REQUESTS), title=title, xlabel=what, ylim=(0, 1.3))
    report.tidy(right, list(REQUESTS), title="Added to the first event, ms", xlabel=what)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(by_name))
    return figure
