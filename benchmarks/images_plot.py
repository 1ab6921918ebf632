"""The plot of the images' page: layers, seconds and bytes."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from benchmarks import images_results as results
from benchmarks.images_report import CHANGES, CONTESTANTS, above
from ci import sizes

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from benchmarks.images_results import Measured

COLORS = dict(zip(CONTESTANTS, ("#0b3d91", "#d98c2b", "#b5483a"), strict=True))
PLATFORM_COLOR = "#c9ccd1"
LETTER_MIB = 14  # what a letter takes of the axis
SHORT = {
    results.COLD: "all",
    results.NOTHING: "nothing",
    results.CODE: "code",
    results.DEPENDENCY: "one\ndependency",
    results.GROUP: "one\ngroup",
    results.PATCH: "patched\nbase",
}


def draw(path: Path, measured: Measured) -> None:
    """Draw into `path`."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 1.1))
    _layers(figure.add_subplot(grid[0, :]), measured)
    _changes(figure.add_subplot(grid[1, 0]), measured, "seconds after a change, packing included")
    pushed = figure.add_subplot(grid[1, 1])
    _changes(pushed, measured, "MiB pushed after a change")
    figure.legend(*pushed.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, metadata={"Date": None})


def _layers(axes: Axes, measured: Measured) -> None:
    for place, name in enumerate(reversed(CONTESTANTS)):
        size = measured.size(name)
        own = above(size, measured)
        start = 0.0
        for layer in size.layers:
            width = layer.compressed_bytes / sizes.MIB
            color = COLORS[name] if layer in own else PLATFORM_COLOR
            axes.barh(place, width, 0.6, left=start, color=color, edgecolor="white", linewidth=0.8)
            text = layer.holds.split(" and ")[0].split(",")[0].rpartition("/")[2]
            if width > LETTER_MIB * len(text):
                shade = "white" if layer in own else "black"
                axes.text(
                    start + width / 2,
                    place,
                    text,
                    ha="center",
                    va="center",
                    color=shade,
                    fontsize=8,
                )
            start += width
        total = f" {sizes.shown(size.compressed_bytes)}, {sizes.shown(size.raw_bytes)} unpacked"
        axes.text(start, place, total, va="center", fontsize=9)
    largest = max(measured.size(name).compressed_bytes for name in CONTESTANTS)
    axes.set_xlim(0, largest / sizes.MIB * 1.25)
    axes.set_yticks(range(len(CONTESTANTS)), list(reversed(CONTESTANTS)))
    axes.set(title="Layers, MiB compressed; grey: the platform image that all stand on")
    axes.spines[["top", "right"]].set_visible(False)


def _changes(axes: Axes, measured: Measured, what: str) -> None:
    changes = [
        change for change in CHANGES if any(turn.change == change for turn in measured.turns)
    ]
    width = 0.8 / len(CONTESTANTS)
    in_bytes = what.startswith("MiB")
    floor = 1e-4 if in_bytes else 0.1
    for index, name in enumerate(CONTESTANTS):
        for place, change in enumerate(changes):
            turns = measured.of(name, change)
            if not turns:
                continue
            values = [
                (turn.pushed_bytes or 0) / sizes.MIB if in_bytes else turn.seconds for turn in turns
            ]
            value = statistics.median(values)
            at = place + (index - 1) * width
            label = name if place == 0 else None
            axes.bar(at, max(value, floor), width, color=COLORS[name], label=label)
            axes.text(at, max(value, floor) * 1.1, _shown(value), ha="center", fontsize=6)
    axes.set_yscale("log")
    axes.set_ylim(floor, axes.get_ylim()[1] * 2)
    axes.set_xticks(range(len(changes)), [SHORT[change] for change in changes], fontsize=8)
    axes.set(title=what[0].upper() + what[1:])
    axes.spines[["top", "right"]].set_visible(False)


def _shown(value: float) -> str:
    if value >= 10 or not value:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"
