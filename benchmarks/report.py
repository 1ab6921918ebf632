"""A benchmark's page and plot, written from what was just measured.

The prose of each page is in `benchmarks/pages/`; what stands there in braces is filled in here.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.contestants import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PAGES = Path(__file__).with_name("pages")
GREY, BLUE, NAVY, ORANGE, RED, SKY = (
    *("#8a8f98", "#2f6fde", "#0b3d91", "#d98c2b", "#b5483a", "#6fa3ef"),
)


def parser(name: str, said: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """Return a parser of what every benchmark can be told."""
    made = argparse.ArgumentParser(
        prog=f"nox -s bench -- {name}".rstrip(),
        description=said,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--rounds", type=int, default=rounds, help="turns of each (%(default)s)")
    made.add_argument("--out", type=Path, default=ROOT / "docs", help="where the report goes")
    return made


def machine() -> str:
    """Say on what this is measured."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"Machine: {os.cpu_count()} cores ({model}), Python {platform.python_version()}"


def spread(values: Sequence[float], digits: int = 2, form: str = "[{}, {}]") -> str:
    """Return the median with the lowest and the highest; alone if there is but one value."""
    middle, *ends = (
        f"{v:.{digits}f}" for v in (statistics.median(values), min(values), max(values))
    )
    return middle if len(values) == 1 else f"{middle} {form.format(*ends)}"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
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


def tidy(axes: Axes, ticks: Sequence[object], **said: object) -> None:
    """Name the places on the horizontal axis, say what the plot shows, and leave out the frame."""
    axes.set(**said)
    axes.set_xticks(range(len(ticks)), [str(tick) for tick in ticks])
    axes.spines[["top", "right"]].set_visible(False)


def bars(
    axes: Axes, values: Mapping[str, Sequence[Sequence[float]]], colors: Iterable[str]
) -> None:
    """Draw the median and spread of each contestant's values, a bar for each group of them."""
    for index, ((name, groups), color) in enumerate(zip(values.items(), colors, strict=False)):
        axes.bar(
            offsets(len(groups), index, len(values)),
            [statistics.median(one) for one in groups],
            0.8 / len(values),
            color=color,
            label=name,
            yerr=errors(groups),
            capsize=2,
            error_kw={"linewidth": 0.8},
        )


def offsets(count: int, index: int, of: int) -> list[float]:
    """Return the places of contestant `index`'s bars, one in each of `count` groups."""
    return [place + (index - of / 2 + 0.5) * 0.8 / of for place in range(count)]


def errors(groups: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return how far below and above each group's median its values reach."""
    middles = [statistics.median(values) for values in groups]
    pairs = list(zip(middles, groups, strict=True))
    return [[m - min(values) for m, values in pairs], [max(values) - m for m, values in pairs]]
