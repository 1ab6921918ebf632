"""The front door and its peers: chat beside plain vLLM, one hop, and what the stack takes."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from benchmarks import report
from benchmarks.contestants import ROOT, Server, Service, free_port, python, running, told
from benchmarks.load import KEY, Result, run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    Lines = Mapping[int, Mapping[str, Sequence[Result]]]
    """By concurrency and server, a result for each round."""

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


def main(arguments: list[str]) -> None:
    options = report.parser("", __doc__, rounds=5).parse_args(arguments)
    stack_python = python()
    measured = servers(stack_python)
    stack = next(server for server in measured if server.name == STACK)
    with running(*measured):
        lines = uvloop.run(measure(measured, options.rounds))
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


async def measure(measured: Sequence[Server], rounds: int) -> Lines:
    """Measure all servers in turn, `rounds` times; the first one is plain vLLM.

    Before and after each turn of another server plain vLLM runs too, and the two are averaged:
    what the machine does in the meantime hits both.
    """
    plain, *others = measured
    lines: dict[int, dict[str, list[Result]]] = {
        concurrency: {server.name: [] for server in measured} for concurrency in REQUESTS
    }
    for server in measured:  # warm
        await run(server.port, _BODY, concurrency=8, requests=64)
    for number in range(rounds):
        for concurrency in REQUESTS:
            before = await _one(plain, concurrency)
            for server in others:
                result = await _one(server, concurrency)
                after = await _one(plain, concurrency)
                result.compare(before, after)
                lines[concurrency][server.name].append(result)
                before = after
            lines[concurrency][plain.name].append(before)
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
    columns = (
        *("server", "concurrent", "requests/s", f"share of {PLAIN}", "first event, ms"),
        *("added, ms", "between events, ms"),
    )
    rows = (
        (
            *(server, concurrency, f"{median(line, 'requests_per_s'):.1f}"),
            *(report.spread([one.share for one in line], 3), f"{median(line, 'first_ms'):.2f}"),
            *(f"{median(line, 'added_ms'):+.2f}", f"{median(line, 'gap_ms'):.2f}"),
        )
        for concurrency, of_one in lines.items()
        for server, line in of_one.items()
    )
    return report.table(columns, rows)


def aims(lines: Lines) -> str:
    rows = []
    shares = {name: median(line, "share") for name, line in lines[MOST].items()}
    for server, aim in _AIMS.items():
        what = f"share of {PLAIN} at {MOST} concurrent"
        said = f"{shares[server]:.3f}, aim {aim}: {verdict(shares[server] >= aim)}"
        rows.append(f"- {server}, {what}: {said}.")
    added = median(lines[1][STACK], "added_ms")
    rows.append(
        f"- Added to the first event at 1 concurrent: {added:.2f} ms, aim {_ADDED_AIM_MS}: "
        f"{verdict(added < _ADDED_AIM_MS)}."
    )
    for name, share in shares.items():
        if name not in (PLAIN, ALONE, STACK):
            beside = "ahead of" if shares[STACK] > share else "behind"
            both = f"({shares[STACK]:.3f} to {share:.3f})"
            rows.append(f"- {beside} {name} at {MOST} concurrent {both}.")
    return "\n".join(rows)


def median(line: Sequence[Result], what: str) -> float:
    return report.median(line, attrgetter(what))


def verdict(is_reached: bool) -> str:  # noqa: FBT001
    return "reached" if is_reached else "missed"


def plot(lines: Lines) -> Figure:
    """Draw shares of plain vLLM's requests a second, and what is added to its first event."""
    shares, added = (
        report.by_contestant(lines, attrgetter(what)) for what in ("share", "added_ms")
    )
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
