"""The front door and its peers: chat, speech, one hop, and what the stack takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import chat, report, speech
from benchmarks.contestants import python, running, told

if TYPE_CHECKING:
    import psutil

_SERVICES = {"bentovox": "gateway", "chat": "chat service", "speech": "speech service"}


def main(arguments: list[str]) -> None:
    """Start all servers, measure, stop them and write the report."""
    options = report.parser("", __doc__, rounds=5).parse_args(arguments)
    stack_python = python()
    servers = chat.servers(stack_python)
    stack = next(server for server in servers if server.name == chat.STACK)
    with running(*servers):
        lines = chat.measure(servers, options.rounds)
        memory = [
            (f"memory of the stack's {_what(one)}, after the load", one.memory_info().rss)
            for one in stack.processes()
        ]
        firsts_ms = speech.measure(stack_python, stack.port)
    files = (path.lstat() for path in Path(stack_python).parents[1].rglob("*") if path.is_file())
    sizes = [*memory, ("size of the installed environment", sum(one.st_size for one in files))]
    report.write(
        options.out,
        "benchmarks",
        chat.plot(lines),
        rounds=options.rounds,
        chat=chat.table(lines),
        aims=chat.aims(lines),
        speech=speech.table(firsts_ms),
        relay=_relays(told(stack_python, "-m", "benchmarks.relay")),
        resources=report.table(
            ("what", "figure"),
            [
                *((f"{server.name} ready after", f"{server.ready_s:.1f} s") for server in servers),
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


def _what(process: psutil.Process) -> str:
    line = process.cmdline()
    text = " ".join(line)
    if "EngineCore" in text:
        return "vLLM engine"
    if "--service-name" in line:
        name = line[line.index("--service-name") + 1]
        return _SERVICES.get(name, name)
    if "resource_tracker" in text:
        return "resource tracker"
    return "supervisor" if "circus" in text or "bentoml" in text else Path(line[0]).name
