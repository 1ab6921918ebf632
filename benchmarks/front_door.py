"""The front door and its peers: chat beside plain vLLM, one hop, and what the stack takes."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from benchmarks import report
from benchmarks.contestants import ROOT, Server, Service, free_port, python, running, told
from benchmarks.load import KEY, Result, run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    Lines = Mapping[tuple[str, int], "Line"]
    """By server and concurrency."""

PLAIN, ALONE, STACK = "plain vLLM", "Bentovox chat", "Bentovox stack"
_NAME = "bentovox-demo"
REQUESTS = {1: 24, 8: 120, 32: 480}  # by concurrency
MOST = max(REQUESTS)
_AIMS = {ALONE: 0.97, STACK: 0.94}
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

    results: list[Result] = field(default_factory=list)
    plain: list[Result] = field(default_factory=list)

    @property
    def shares(self) -> list[float]:
        """Each round's requests a second over plain vLLM's."""
        return report.beside(self.results, self.plain, attrgetter("requests_per_s"))

    @property
    def share(self) -> float:
        """The median of `shares`."""
        return statistics.median(self.shares)

    @property
    def added_ms(self) -> list[float]:
        """What it adds, in each round, to the time of plain vLLM's first event."""
        pairs = zip(self.results, self.plain, strict=True)
        return [ours.first_ms - plain.first_ms for ours, plain in pairs]

    def median(self, what: str) -> float:
        """Return the median of one of its results' figures."""
        return report.median(self.results, attrgetter(what))


def main(arguments: list[str]) -> None:
    """Start all servers, measure, stop them and write the report."""
    options = report.parser("", __doc__, rounds=5).parse_args(arguments)
    stack_python = python()
    measured = servers(stack_python)
    stack = next(server for server in measured if server.name == STACK)
    with running(*measured):
        lines = measure(measured, options.rounds)
        memory = [
            (f"memory of the stack's {name}, after the load", process.memory_info().rss)
            for name, process in stack.named()
        ]
    files = (path.lstat() for path in Path(stack_python).parents[1].rglob("*") if path.is_file())
    sizes = [*memory, ("size of the installed environment", sum(one.st_size for one in files))]
    report.write(
        options.out,
        "benchmarks",
        plot(lines),
        rounds=options.rounds,
        chat=table(lines),
        aims=aims(lines),
        relay=_relays(told(stack_python, "-m", "benchmarks.relay")),
        resources=report.table(
            ("what", "figure"),
            [
                *((f"{server.name} ready after", f"{server.ready_s:.1f} s") for server in measured),
                *((what, f"{size / (1 << 20):.0f} MiB") for what, size in sizes),
            ],
        ),
    )


def _relays(costs_ms: dict[str, list[float]]) -> str:
    ours, *_ = costs_ms.values()
    rows = [
        (name, report.spread(ms), report.spread(report.beside(ms, ours, float)))
        for name, ms in costs_ms.items()
    ]
    if "nginx" not in costs_ms:
        rows.append(("nginx", "left out: not installed", ""))
    return report.table(("relay", "ms a stream", "of the gateway's"), rows)


def servers(stack_python: str) -> list[Server]:
    """Return plain vLLM first, then ours, then the peers."""
    plain, inner, litellm = (free_port() for _ in range(3))
    command = Service(
        "BentoML __command__",
        stack_python,
        "benchmarks.peers.command_proxy:CommandProxy",
        PEER_VLLM_PORT=str(inner),
        PEER_VLLM_COMMAND=json.dumps(_vllm(stack_python, inner)),
    )
    command.health = "/health"
    return [
        Server(PLAIN, _vllm(stack_python, plain), plain, "/health"),
        Service(ALONE, stack_python, "services.chat.service:Chat"),
        Service(STACK, stack_python, "services.stack:Stack"),
        command,
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


def _vllm(stack_python: str, port: int) -> list[str]:
    """Return plain vLLM's command; `vllm serve` is this module behind another name."""
    # fmt: off
    return [
        stack_python, "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(ROOT / "services" / "chat" / "demo_model"), "--served-model-name", _NAME,
        "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "float32", "--max-model-len", "2048", "--kv-cache-memory-bytes", "64M",
        "--enforce-eager", "--distributed-executor-backend", "uni",
        "--enable-auto-tool-choice", "--tool-call-parser", "hermes",
        "--shutdown-timeout", "20", "--disable-uvicorn-access-log",
    ]
    # fmt: on


def _litellm_config(port: int) -> str:
    url = f"http://127.0.0.1:{port}/v1"
    reached = {"model": f"hosted_vllm/{_NAME}", "api_base": url, "api_key": "none"}
    config = {
        "model_list": [{"model_name": _NAME, "litellm_params": reached}],
        "litellm_settings": {"drop_params": False, "telemetry": False},
    }
    path = Path(tempfile.mkdtemp(), "litellm.yaml")
    path.write_text(json.dumps(config), encoding="utf-8")
    return str(path)


def measure(measured: Sequence[Server], rounds: int) -> Lines:
    """Measure all servers in turn, `rounds` times; the first one is plain vLLM.

    Before and after each turn of another server plain vLLM runs too, and the two are averaged:
    what the machine does in the meantime hits both.
    """
    return uvloop.run(_measure(measured, rounds))


async def _measure(measured: Sequence[Server], rounds: int) -> Lines:
    plain, *others = measured
    lines = {(server.name, count): Line() for count in REQUESTS for server in measured}
    for server in measured:  # warm
        await run(server.port, _BODY, concurrency=8, requests=64)
    for number in range(rounds):
        for concurrency in REQUESTS:
            before = await _one(plain, concurrency)
            for server in others:
                line = lines[server.name, concurrency]
                line.results.append(await _one(server, concurrency))
                after = await _one(plain, concurrency)
                line.plain.append(before.mean(after))
                before = after
            lines[plain.name, concurrency].results.append(before)
            lines[plain.name, concurrency].plain.append(before)
        print(f"  chat: round {number + 1} of {rounds} done", flush=True)
    return lines


async def _one(server: Server, concurrency: int) -> Result:
    requests = REQUESTS[concurrency]
    before_s = server.spent_s(), server.spent_s(server.door)
    result = await run(server.port, _BODY, concurrency=concurrency, requests=requests)
    result.cpu_ms = (server.spent_s() - before_s[0]) / requests * 1000
    result.door_ms = (server.spent_s(server.door) - before_s[1]) / requests * 1000
    await asyncio.sleep(0.2)
    return result


def table(lines: Lines) -> str:
    """Return what was measured as a table."""
    columns = (
        *("server", "concurrent", "requests/s", f"share of {PLAIN}", "first event, ms"),
        *("added, ms", "between events, ms"),
    )
    rows = (
        (
            *(server, concurrency, f"{line.median('requests_per_s'):.1f}"),
            *(report.spread(line.shares, 3), f"{line.median('first_ms'):.2f}"),
            *(f"{statistics.median(line.added_ms):+.2f}", f"{line.median('gap_ms'):.2f}"),
        )
        for (server, concurrency), line in lines.items()
    )
    return report.table(columns, rows)


def aims(lines: Lines) -> str:
    """Return what was reached of what we aim for."""
    rows = []
    for server, aim in _AIMS.items():
        share = lines[server, MOST].share
        what = f"share of {PLAIN} at {MOST} concurrent"
        rows.append(f"- {server}, {what}: {share:.3f}, aim {aim}: {verdict(share >= aim)}.")
    added = statistics.median(lines[STACK, 1].added_ms)
    rows.append(
        f"- Added to the first event at 1 concurrent: {added:.2f} ms, aim {_ADDED_AIM_MS}: "
        f"{verdict(added < _ADDED_AIM_MS)}."
    )
    ours = lines[STACK, MOST].share
    for (name, concurrency), line in lines.items():
        if concurrency == MOST and name not in (PLAIN, ALONE, STACK):
            beside = "ahead of" if ours > line.share else "behind"
            shares = f"({ours:.3f} to {line.share:.3f})"
            rows.append(f"- {beside} {name} at {MOST} concurrent {shares}.")
    return "\n".join(rows)


def verdict(is_reached: bool) -> str:  # noqa: FBT001
    """Say what came of an aim."""
    return "reached" if is_reached else "missed"


def by_server(lines: Lines, values: Callable[[Line], list[float]]) -> dict[str, list[list[float]]]:
    """Return each server's values as plots take them: a group for each concurrency."""
    found: dict[str, list[list[float]]] = {}
    for (server, _), line in lines.items():
        found.setdefault(server, []).append(values(line))
    return found


def plot(lines: Lines) -> Figure:
    """Draw shares of plain vLLM's requests a second, and what is added to its first event."""
    shares, added = (by_server(lines, attrgetter(what)) for what in ("shares", "added_ms"))
    shades = (report.GREY, report.BLUE, report.NAVY, report.ORANGE, report.RED)
    colors = dict(zip(shares, shades, strict=True))
    figure = report.plot(11, 4.2)
    left, right = figure.subplots(1, 2)
    report.bars(left, shares, colors)
    report.lines(right, {name: of for name, of in added.items() if name != PLAIN}, colors)
    left.axhline(1, color="#444", linewidth=0.8)
    left.axhline(_AIMS[STACK], color=report.NAVY, linewidth=0.8, linestyle=":")
    right.axhline(0, color="#444", linewidth=0.8)
    right.set_yscale("symlog", linthresh=5)
    title, what = f"Requests a second, share of {PLAIN}", "concurrent streams"
    report.tidy(left, REQUESTS, title=title, xlabel=what, ylim=(0, 1.3))
    report.tidy(right, REQUESTS, title="Added to the first event, ms", xlabel=what)
    report.legend(figure, left)
    return figure
