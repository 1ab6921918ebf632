"""The front door and its peers: chat, speech, one hop, and what the stack takes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import chat, report, speech
from benchmarks.contestants import ROOT, python

if TYPE_CHECKING:
    import psutil

    from benchmarks.contestants import Server

_SERVICES = {"bentovox": "gateway", "chat": "chat service", "speech": "speech service"}


def main(arguments: list[str]) -> None:
    """Start all servers, measure, stop them and write the report."""
    options = report.parser("", __doc__, rounds=5).parse_args(arguments)
    stack_python = python()
    servers = chat.servers(stack_python)
    stack = next(server for server in servers if server.name == chat.STACK)
    try:
        for server in servers:
            server.start()
        lines = chat.measure(servers, options.rounds)
        memory_mib = _memory_mib(stack)
        firsts_ms = speech.measure(stack_python, stack.port)
    finally:
        for server in servers:
            server.stop()
    relay = subprocess.check_output([stack_python, "-m", "benchmarks.relay"], cwd=ROOT)
    report.write(
        options.out,
        "benchmarks",
        chat.plot(lines),
        rounds=options.rounds,
        chat=chat.table(lines),
        aims=chat.aims(lines),
        speech=speech.table(firsts_ms),
        relay=relay_table(json.loads(relay)),
        resources=resources(
            {server.name: server.ready_s for server in servers},
            memory_mib,
            _size_mib(Path(stack_python).parents[1]),
        ),
    )


def relay_table(costs_ms: dict[str, float]) -> str:
    """Return what a hop costs as a table."""
    rows = ((name, f"{cost_ms:.2f}") for name, cost_ms in costs_ms.items())
    return report.table(("relay", "ms a stream"), rows)


def resources(
    ready_s: dict[str, float], memory_mib: dict[str, float], environment_mib: float
) -> str:
    """Return what the servers and the stack take as a table."""
    ready = [(f"{name} ready after", f"{seconds:.1f} s") for name, seconds in ready_s.items()]
    memory = [
        (f"memory of the stack's {name}, after the load", f"{mib:.0f} MiB")
        for name, mib in memory_mib.items()
    ]
    disk = ("size of the installed environment", f"{environment_mib:.0f} MiB")
    return report.table(("what", "figure"), [*ready, *memory, disk])


def _memory_mib(server: Server) -> dict[str, float]:
    """Return the resident memory of each process, by what it is."""
    return {_what(process): process.memory_info().rss / (1 << 20) for process in server.processes()}


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


def _size_mib(folder: Path) -> float:
    return sum(f.lstat().st_size for f in folder.rglob("*") if f.is_file()) / (1 << 20)
