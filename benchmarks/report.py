"""A benchmark's page and plot, written from what was just measured.

The prose of each page is in `benchmarks/pages/`; what stands there in braces is filled in here.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks.contestants import ROOT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

T = TypeVar("T")

_PAGES = Path(__file__).with_name("pages")
GREY, BLUE, NAVY, ORANGE, RED, SKY = (
    *("#8a8f98", "#2f6fde", "#0b3d91", "#d98c2b", "#b5483a", "#6fa3ef"),
)


def parser(name: str, said: str | None, *, rounds: int = 0) -> argparse.ArgumentParser:
    """Return a parser of what a benchmark can be told; `rounds` is how many it has by default."""
    made = argparse.ArgumentParser(
        prog=f"nox -s bench -- {name}".rstrip(),
        description=said,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if rounds:
        made.add_argument("--rounds", type=int, default=rounds, help="turns of each (%(default)s)")
    made.add_argument("--out", type=Path, default=ROOT / "docs", help="where the report goes")
    return made


def machine() -> str:
    """Say on what this is measured."""
    known = re.search(r"^model name\s*: (.+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    model = known[1].strip() if known else platform.machine()
    return f"Machine: {os.cpu_count()} cores ({model}), Python {platform.python_version()}"


def median(turns: Iterable[T], value: Callable[[T], float]) -> float:
    return statistics.median(map(value, turns))


def beside(mine: Iterable[T], peers: Iterable[T], value: Callable[[T], float]) -> list[float]:
    """Return each round's ratio of a value to the peer's."""
    return [value(one) / value(other) for one, other in zip(mine, peers, strict=True)]


def by_contestant(
    turns: Mapping[Any, Mapping[str, Sequence[T]]], value: Callable[[T], float]
) -> dict[str, list[list[float]]]:
    """Return each contestant's values as plots take them: a group for each case, of all rounds.

    Who has no turns in the last cases has fewer groups.
    """
    names = next(iter(turns.values()))
    return {
        name: [[*map(value, of_case[name])] for of_case in turns.values() if name in of_case]
        for name in names
    }


def spread(values: Sequence[float], digits: int = 2, form: str = "[{}, {}]") -> str:
    """Return the median with the lowest and the highest; alone if there is but one value."""
    middle, *ends = (
        f"{v:.{digits}f}" for v in (statistics.median(values), min(values), max(values))
    )
    return middle if len(values) == 1 else f"{middle} {form.format(*ends)}"


def listed(values: Iterable[object]) -> str:
    """Return values as a text: `1, 2 and 3`."""
    *others, last = map(str, values)
    return f"{', '.join(others)} and {last}" if others else last


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = f"| {' | '.join(columns)} |".replace("|  |", "| |")
    lines = (f"| {' | '.join(map(str, row))} |" for row in rows)
    return "\n".join([head, "|---" * len(columns) + "|", *lines])


def write(folder: Path, name: str, figure: Figure | None, **values: object) -> None:
    """Write the page `name` and its plot, if it has one, into `folder`, and print the page."""
    folder.mkdir(parents=True, exist_ok=True)
    text = (_PAGES / f"{name}.md").read_text(encoding="utf-8").format(machine=machine(), **values)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    if figure is not None:
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    print(text)


def plot(width: float, height: float) -> Figure:
    """Return a figure to draw a plot in."""
    from matplotlib.figure import Figure  # noqa: PLC0415  not where only a GPU is

    return Figure(figsize=(width, height), layout="constrained")


def tidy(axes: Axes, ticks: Iterable[object], **said: object) -> None:
    """Name the places on the horizontal axis, say what the plot shows, and leave out the frame."""
    axes.set(**said)
    names = [str(tick) for tick in ticks]
    axes.set_xticks(range(len(names)), names)
    axes.spines[["top", "right"]].set_visible(False)


def legend(figure: Figure, axes: Axes, columns: int = 5) -> None:
    """Name the contestants of `axes` below all plots."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


def bars(
    axes: Axes, values: Mapping[str, Sequence[Sequence[float]]], colors: Mapping[str, str]
) -> None:
    """Draw the median and spread of each contestant's values, a bar for each group of them."""
    width = 0.8 / len(values)
    for index, (name, groups) in enumerate(values.items()):
        middles, errors = _spreads(groups)
        first = (index - len(values) / 2 + 0.5) * width
        places = [place + first for place in range(len(groups))]
        style = {"color": colors[name], "label": name, "error_kw": {"linewidth": 0.8}}
        axes.bar(places, middles, width, yerr=errors, capsize=2, **style)


def lines(
    axes: Axes, values: Mapping[str, Sequence[Sequence[float]]], colors: Mapping[str, str]
) -> None:
    """Draw the median and spread of each contestant's values, a point for each group of them."""
    for name, groups in values.items():
        middles, errors = _spreads(groups)
        style = {"marker": "o", "capsize": 2, "color": colors[name], "label": name}
        axes.errorbar(range(len(groups)), middles, yerr=errors, **style)


def _spreads(groups: Sequence[Sequence[float]]) -> tuple[list[float], list[list[float]]]:
    """Return each group's median, and how far below and above it the values reach."""
    middles = [statistics.median(values) for values in groups]
    pairs = list(zip(middles, groups, strict=True))
    below = [middle - min(values) for middle, values in pairs]
    return middles, [below, [max(values) - middle for middle, values in pairs]]
