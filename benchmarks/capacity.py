"""What many backends cost a gateway, and how several gateways choose among a thousand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks import report
from benchmarks.contestants import python, told

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

_GPUS = (1, 10, 100, 1000)
_TOKENS_S = (1000, 3000, 10_000)
_ANSWER = 256  # tokens
_SCRAPE_S = 15  # the chart's serviceMonitor.interval

_Case = dict[str, Any]


def main(arguments: list[str]) -> None:
    """Measure, simulate, and write the page and the plot."""
    options = report.parser("capacity", __doc__, rounds=1).parse_args(arguments)
    figures = told(python(), "-m", "benchmarks.limits")
    routing = told(python(), "-m", "benchmarks.routing")
    token_us = figures["event_us"] + figures["request_ms"] * 1000 / _ANSWER
    report.write(
        options.out,
        "capacity",
        _plot(routing["spread"], token_us),
        costs=_costs(figures),
        gpus=_gpus(figures, token_us),
        token=f"{token_us:.1f}",
        spread=_spread(routing["spread"]),
        replaced=_replaced(routing["replaced"]),
    )


def _costs(figures: Mapping[str, Any]) -> str:
    of_open, probe, metrics = figures["open"], figures["probe_ms"], figures["metrics"]
    picks = ", ".join(f"{us:.0f} µs of {n}" for n, us in figures["pick_us"].items())
    rows = (
        ("a request, without its events", f"{figures['request_ms']:.2f} ms"),
        ("an event of a stream, as a rule a token", f"{figures['event_us']:.1f} µs"),
        ("the choice of a backend, in the above", picks),
        ("an open stream", f"{of_open['files']:.1f} open files, {of_open['kib']:.0f} KiB"),
        (
            "a probe, each second for each backend",
            f"{probe['gateway'] * 1000:.0f} µs, and {probe['role'] * 1000:.0f} µs in the backend",
        ),
        (
            "a scrape of `/metrics`, for each backend",
            f"{metrics['ms']:.1f} ms, for the {metrics['kib']:.0f} KiB of a chat role",
        ),
    )
    return report.table(("what", "costs a gateway"), rows)


def _gpus(figures: Mapping[str, Any], token_us: float) -> str:
    probe_s, scrape_s = figures["probe_ms"]["gateway"] / 1000, figures["metrics"]["ms"] / 1000
    rows = [
        (
            gpus,
            *(f"{gpus * tokens * token_us / 1e6:.2f}" for tokens in _TOKENS_S),
            f"{gpus * probe_s:.1%}",
            f"{gpus * scrape_s:.2f} s, {gpus * scrape_s / _SCRAPE_S:.1%}",
        )
        for gpus in _GPUS
    ]
    columns = (
        "GPUs, a backend each",
        *(f"cores at {tokens} tokens/s each" for tokens in _TOKENS_S),
        "probes, of a core of each gateway",
        f"a scrape, and its share of a core every {_SCRAPE_S} s",
    )
    return report.table(columns, rows)


def _kind(case: _Case) -> str:
    if not case["affinity"]:
        return "no affinity"
    return "a conversation in 20 000" if case["subjects"] > 1000 else "one of 20 voices"


def _spread(cases: Sequence[_Case]) -> str:
    rows = (
        (
            _kind(case),
            case["gateways"],
            case["ahead"] if case["affinity"] else "",
            f"{case['apart']:.1f}",
            f"{case['wait_p99_ms']:.0f}",
            f"{case['refused']:.1%}",
            f"{case['hits']:.0%}",
        )
        for case in cases
    )
    columns = ("alike by", "gateways", "ahead", "most less fewest", "wait, p99, ms", "429", "hits")
    return report.table(columns, rows)


def _replaced(cases: Sequence[_Case]) -> str:
    rows = (
        (
            f"{case['replaced']:.0%}",
            f"{case['drain_s']:g} s",
            case["requests"],
            case["moved"],
            case["lost"],
        )
        for case in cases
    )
    return report.table(("end at once", "`DRAIN_S`", "requests", "sent elsewhere", "lost"), rows)


def _plot(cases: Sequence[_Case], token_us: float) -> Figure:
    """Draw the wait for a slot by number of gateways, and the cores that gateways need."""
    figure = report.plot(11, 4.2)
    left, right = figure.subplots(1, 2)
    lines: dict[str, list[_Case]] = {}
    for case in cases:
        shared = case["affinity"] and case["ahead"] * case["gateways"] <= 8
        name = _kind(case) + (", 8 ahead in all" if shared and case["gateways"] > 1 else "")
        lines.setdefault(name, []).append(case)
        if case["affinity"] and case["gateways"] == 1:
            lines.setdefault(f"{name}, 8 ahead in all", []).append(case)
    numbers = sorted({case["gateways"] for case in cases})
    colors = (report.GREY, report.BLUE, report.SKY, report.RED, report.ORANGE)
    for (name, mine), color in zip(lines.items(), colors, strict=True):
        places = [numbers.index(case["gateways"]) for case in mine]
        left.plot(places, [c["wait_p99_ms"] for c in mine], marker="o", color=color, label=name)
    title = "Wait for a slot, p99, ms, 1000 backends (simulated)"
    room = 1.6 * max(case["wait_p99_ms"] for case in cases)  # for the legend
    report.tidy(left, numbers, title=title, xlabel="gateways", ylim=(-room / 40, room))
    left.legend(fontsize="small", frameon=False)
    for tokens, color in zip(_TOKENS_S, (report.SKY, report.BLUE, report.NAVY), strict=True):
        cores = [gpus * tokens * token_us / 1e6 for gpus in _GPUS]
        right.plot(
            range(len(_GPUS)), cores, marker="o", color=color, label=f"{tokens} tokens/s a GPU"
        )
    right.set_yscale("log")
    right.axhline(1, color="#444", linewidth=0.8)
    report.tidy(right, _GPUS, title="Cores that all gateways need", xlabel="GPUs")
    right.legend(fontsize="small", frameon=False)
    return figure
