"""The front door and its peers: chat, one hop, and what the stack takes."""

from __future__ import annotations

from pathlib import Path

from benchmarks import chat, report
from benchmarks.contestants import python, running, told


def main(arguments: list[str]) -> None:
    """Start all servers, measure, stop them and write the report."""
    options = report.parser("", __doc__, rounds=5).parse_args(arguments)
    stack_python = python()
    servers = chat.servers(stack_python)
    stack = next(server for server in servers if server.name == chat.STACK)
    with running(*servers):
        lines = chat.measure(servers, options.rounds)
        memory = [
            (f"memory of the stack's {name}, after the load", process.memory_info().rss)
            for name, process in stack.named()
        ]
    files = (path.lstat() for path in Path(stack_python).parents[1].rglob("*") if path.is_file())
    sizes = [*memory, ("size of the installed environment", sum(one.st_size for one in files))]
    report.write(
        options.out,
        "benchmarks",
        chat.plot(lines),
        rounds=options.rounds,
        chat=chat.table(lines),
        aims=chat.aims(lines),
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
