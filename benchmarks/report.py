"""The report: `docs/benchmarks.md` and its plot, both written from what was just measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from benchmarks.chat import Line
    from benchmarks.speech import First

_AIMS = (
    ("Bentovox chat", "share of plain vLLM at 32 concurrent", 0.97),
    ("Bentovox stack", "share of plain vLLM at 32 concurrent", 0.92),
)


def write(
    folder: Path,
    *,
    chat: list[Line],
    speech: list[First],
    relay: dict[str, float],
    ready_s: dict[str, float],
    memory_mib: dict[str, float],
    environment_mib: float,
    rounds: int,
) -> None:
    """Write the page and the plot into `folder`."""
    text = "\n\n".join(
        [
            _HEAD.format(machine=machine(), rounds=rounds),
            "![requests a second and added time](benchmarks.svg)",
            _chat_table(chat),
            _aims(chat),
            _speech_table(speech),
            _relay_table(relay),
            _resources(ready_s, memory_mib, environment_mib),
        ]
    )
    (folder / "benchmarks.md").write_text(text + "\n", encoding="utf-8")
    _plot(folder / "benchmarks.svg", chat)


_HEAD = """# Benchmarks

Written by `nox -s bench`; do not edit. {machine}. The demo model on a CPU, streams of 32 tokens.

Servers, load generator and whatever else the machine does share its cores, so that absolute figures
say little: read the ratios. Each server's turn stands between two turns of plain vLLM
(`vllm serve`'s own module, same flags, access log off), and its share is of the mean of the two;
the table shows the median of {rounds} rounds and, in brackets, the lowest and the highest.

CosyVoice is measured apart: [benchmarks-cosyvoice.md](benchmarks-cosyvoice.md)."""


_CHAT_HEAD = (
    "| server | concurrent | requests/s | share of plain vLLM | first event, ms | added, ms "
    "| between events, ms |"
)


def _chat_table(lines: list[Line]) -> str:
    rows = [
        "## Chat",
        "",
        _CHAT_HEAD,
        "|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {line.server} | {line.concurrency} | {line.requests_per_s:.1f} | {line.share:.3f} "
        f"[{min(line.shares):.3f}, {max(line.shares):.3f}] | {line.first_ms:.2f} "
        f"| {line.added_first_ms:+.2f} | {line.gap_ms:.2f} |"
        for line in lines
    ]
    return "\n".join(rows)


def _aims(lines: list[Line]) -> str:
    by_key = {(line.server, line.concurrency): line for line in lines}
    rows = ["Against the aims:", ""]
    for server, what, aim in _AIMS:
        share = by_key[server, 32].share
        verdict = "reached" if share >= aim else "missed"
        rows.append(f"- {server}, {what}: {share:.3f}, aim {aim}: {verdict}.")
    added = by_key["Bentovox stack", 1].added_first_ms
    verdict = "reached" if added < 2 else "missed"
    rows.append(f"- Added to the first event at 1 concurrent: {added:.2f} ms, aim 2: {verdict}.")
    ours = by_key["Bentovox stack", 32].share
    peers = [
        line
        for line in lines
        if line.concurrency == 32 and "Bentovox" not in line.server and line.server != "plain vLLM"
    ]
    for peer in peers:
        verdict = "ahead of" if ours > peer.share else "behind"
        rows.append(f"- {verdict} {peer.server} at 32 concurrent ({ours:.3f} to {peer.share:.3f}).")
    return "\n".join(rows)


def _speech_table(firsts: list[First]) -> str:
    bare = firsts[0].first_ms
    rows = ["## Speech", "", "| what | median, ms | added, ms |", "|---|---|---|"]
    rows += [
        f"| {first.what} | {first.first_ms:.2f} | {first.first_ms - bare:+.2f} |"
        for first in firsts
    ]
    return "\n".join(rows)


_RELAY_TEXT = (
    "Processor time of the relaying process alone, for a stream of 32 events at 32 concurrent "
    "(`benchmarks/relay.py`). The aiohttp relay does nothing but relay."
)


def _relay_table(relay: dict[str, float]) -> str:
    rows = [
        "## One hop",
        "",
        _RELAY_TEXT,
        "",
        "| relay | ms a stream |",
        "|---|---|",
    ]
    rows += [f"| {name} | {cost:.2f} |" for name, cost in relay.items()]
    return "\n".join(rows)


def _resources(
    ready_s: dict[str, float], memory_mib: dict[str, float], environment_mib: float
) -> str:
    rows = ["## Ready, memory, disk", "", "| what | figure |", "|---|---|"]
    rows += [f"| {name} ready after | {seconds:.1f} s |" for name, seconds in ready_s.items()]
    rows += [
        f"| memory of the stack's {name}, after the load | {mib:.0f} MiB |"
        for name, mib in memory_mib.items()
    ]
    rows.append(f"| size of the installed environment | {environment_mib:.0f} MiB |")
    return "\n".join(rows)


def machine() -> str:
    """Say on what this is measured."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"Machine: {os.cpu_count()} cores ({model}), Python {platform.python_version()}"


def _plot(path: Path, lines: list[Line]) -> None:
    servers = list(dict.fromkeys(line.server for line in lines))
    concurrencies = list(dict.fromkeys(line.concurrency for line in lines))
    colors = ["#8a8f98", "#2f6fde", "#0b3d91", "#d98c2b", "#b5483a"]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    width = 0.8 / len(servers)
    for index, server in enumerate(servers):
        mine = [line for line in lines if line.server == server]
        places = [place + (index - len(servers) / 2 + 0.5) * width for place in range(len(mine))]
        shares = [line.share for line in mine]
        spread = [
            [line.share - min(line.shares) for line in mine],
            [max(line.shares) - line.share for line in mine],
        ]
        color = colors[index % len(colors)]
        left.bar(
            places,
            shares,
            width,
            color=color,
            label=server,
            yerr=spread,
            capsize=2,
            error_kw={"linewidth": 0.8},
        )
        if server != "plain vLLM":
            added = [line.added_first_ms for line in mine]
            right.plot(range(len(mine)), added, marker="o", color=color, label=server)
    left.axhline(1, color="#444", linewidth=0.8)
    left.axhline(0.92, color="#0b3d91", linewidth=0.8, linestyle=":")
    left.set(
        title="Requests a second, share of plain vLLM", xlabel="concurrent streams", ylim=(0, 1.3)
    )
    right.set(title="Added to the first event, ms", xlabel="concurrent streams")
    right.axhline(0, color="#444", linewidth=0.8)
    right.set_yscale("symlog", linthresh=5)
    for axes in (left, right):
        axes.set_xticks(range(len(concurrencies)), [str(c) for c in concurrencies])
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(servers))
    figure.savefig(path, metadata={"Date": None})
