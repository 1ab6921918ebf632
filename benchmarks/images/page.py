"""The page `docs/benchmarks-images.md` and its plot."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from benchmarks import report
from benchmarks.images import results
from benchmarks.images.results import CHANGES, CONTESTANTS, OURS, STOCK
from ci import sizes
from ci.layers.gates import GATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from benchmarks.images.results import Layer, Measured, Size, Turn

_PUSHED_AIM_BYTES = 1_000_000
_REBUILT_AIM_S = 5
_EMPTIED_AIM = 1.5
_COLORS = dict(zip(CONTESTANTS, (report.NAVY, report.ORANGE, report.RED), strict=True))
_PLATFORM_COLOR = "#c9ccd1"
_LETTER_MIB = 14  # what a letter takes of the axis


def write(folder: Path, measured: Measured, *, took_s: float, rounds: int) -> None:
    """Write the page and the plot into `folder`; `rounds` is 0 for a quick run."""
    kept = measured.kept[0]
    report.write(
        folder,
        "benchmarks-images",
        _plot(measured),
        bento=measured.bento,
        took_min=took_s / 60,
        load=measured.load,
        rounds=f"{rounds} rounds" if rounds > 1 else "one round",
        platform=sizes.shown(measured.platform_bytes),
        aims="\n".join(_aims(measured)),
        sizes=_sizes(measured),
        gates=_gates(measured),
        changes=_changes(measured),
        kept=kept,
        emptied=_emptied(measured) if rounds else "Not measured in a quick run.",
    )


def _aims(measured: Measured) -> Iterator[str]:
    code = measured.of(OURS, results.CODE)
    pushed = max(turn.pushed_bytes or 0 for turn in code)
    said = f"A change of code pushes {sizes.shown(pushed)} at most, aim below 1 MB"
    yield _aim(said, is_met=pushed < _PUSHED_AIM_BYTES)
    seconds = _median(code, _seconds)
    said = f"A change of code is in the image after {seconds:.1f} s, packing the bento included"
    yield _aim(f"{said}, aim below {_REBUILT_AIM_S} s", is_met=seconds < _REBUILT_AIM_S)
    for kept in measured.kept:
        said = f"A patched platform image leaves {kept.app} of {kept.of_app} app layers"
        yield _aim(f"{said} with their digests, aim all", is_met=kept.app == kept.of_app)
    warm, emptied = (measured.of(OURS, change) for change in (results.WARM, results.EMPTIED))
    if warm and emptied:
        ratio, docker = (
            _median(emptied, value) / _median(warm, value) for value in (_seconds, _build_s)
        )
        said = (
            f"An emptied engine with the registry's cache takes {ratio:.2f} times a warm one for "
            f"the same change, packing included ({docker:.2f} times without), aim {_EMPTIED_AIM}"
        )
        yield _aim(said, is_met=ratio <= _EMPTIED_AIM)
    for name in CONTESTANTS:
        count = len(measured.size(name).failed)
        if name == OURS:
            yield _aim(f"Our image fails {count} of our gates, aim none", is_met=not count)
        else:
            said = f"The gates stop {name}: {count} fail, aim at least one"
            yield _aim(said, is_met=bool(count))


def _aim(said: str, *, is_met: bool) -> str:
    return f"- {said}: {'met' if is_met else 'not met'}."


def _seconds(turn: Turn) -> float:
    return turn.seconds


def _build_s(turn: Turn) -> float:
    return turn.build_s


def _median(turns: Sequence[Turn], value: Callable[[Turn], float]) -> float:
    return statistics.median(map(value, turns))


def _times(turns: Sequence[Turn]) -> list[str]:
    """Return the seconds of some turns, and those of docker's part."""
    return [report.spread([value(turn) for turn in turns], 1) for value in (_seconds, _build_s)]


def _sizes(measured: Measured) -> str:
    columns = (
        *("what", "raw", "compressed", "above the platform image, compressed", "layers"),
        *("largest above it, raw", "compressed", "there for nothing"),
    )
    rows = []
    for name in CONTESTANTS:
        size = measured.size(name)
        own = _above(size, measured)
        rows.append(
            (
                *(name, sizes.shown(size.raw_bytes), sizes.shown(size.compressed_bytes)),
                sizes.shown(sum(layer.compressed_bytes for layer in own)),
                len(size.layers),
                sizes.shown(max(layer.raw_bytes for layer in own)),
                sizes.shown(max(layer.compressed_bytes for layer in own)),
                sizes.shown(size.duplicate_bytes),
            )
        )
    return report.table(columns, rows)


def _above(size: Size, measured: Measured) -> list[Layer]:
    """Return the layers that are not the platform image's: stock's base is nothing else."""
    return size.layers[sum(layer.is_base for layer in measured.size(STOCK).layers) :]


def _gates(measured: Measured) -> str:
    failed = [measured.size(name).failed for name in CONTESTANTS]
    rows = (
        (gate.name, *("**fails**" if gate.name in of_one else "passes" for of_one in failed))
        for gate in GATES
    )
    return report.table(("gate", *CONTESTANTS), rows)


def _changes(measured: Measured) -> str:
    columns = ("change", "what", "seconds", "docker's part", "pushed")
    rows = [
        (
            *(change, name, *_times(turns)),
            sizes.shown(turns[-1].pushed_bytes or 0),
        )
        for change in CHANGES
        for name in CONTESTANTS
        if (turns := measured.of(name, change))
    ]
    return report.table(columns, rows)


def _emptied(measured: Measured) -> str:
    columns = (
        *("what", "warm, s", "of it docker", "emptied, s", "of it docker", "times", "pushed"),
    )
    rows = []
    for name in CONTESTANTS:
        warm, emptied = (measured.of(name, change) for change in (results.WARM, results.EMPTIED))
        times = _median(emptied, _seconds) / _median(warm, _seconds)
        pushed = sizes.shown(emptied[-1].pushed_bytes or 0)
        rows.append((name, *_times(warm), *_times(emptied), f"{times:.2f}", pushed))
    return report.table(columns, rows)


def _plot(measured: Measured) -> Figure:
    figure = report.plot(11, 8)
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 1.1))
    _draw_layers(figure.add_subplot(grid[0, :]), measured)
    seconds, pushed = (figure.add_subplot(grid[1, column]) for column in (0, 1))
    title = "Seconds after a change, packing included"
    _draw_changes(seconds, measured, title, _seconds, floor=0.1)
    title = "MiB pushed after a change"
    _draw_changes(
        pushed, measured, title, lambda turn: (turn.pushed_bytes or 0) / sizes.MIB, floor=1e-4
    )
    figure.legend(*pushed.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _draw_layers(axes: Axes, measured: Measured) -> None:
    ends = []
    for place, name in enumerate(reversed(CONTESTANTS)):
        size = measured.size(name)
        own = _above(size, measured)
        start = 0.0
        for layer in size.layers:
            width = layer.compressed_bytes / sizes.MIB
            color, shade = (_COLORS[name], "white") if layer in own else (_PLATFORM_COLOR, "black")
            bar = axes.barh(
                place, width, 0.6, left=start, color=color, edgecolor="white", linewidth=0.8
            )
            text = layer.contents.partition(",")[0]
            if width > _LETTER_MIB * len(text):
                axes.bar_label(bar, [text], label_type="center", color=shade, fontsize=8)
            start += width
        total = f" {sizes.shown(size.compressed_bytes)}, {sizes.shown(size.raw_bytes)} unpacked"
        axes.text(start, place, total, va="center", fontsize=9)
        ends.append(start)
    axes.set(xlim=(0, max(ends) * 1.25))
    axes.set_yticks(range(len(CONTESTANTS)), list(reversed(CONTESTANTS)))
    axes.set(title="Layers, MiB compressed; grey: the platform image that all stand on")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_changes(
    axes: Axes, measured: Measured, title: str, value: Callable[[Turn], float], *, floor: float
) -> None:
    changes = [change for change in CHANGES if measured.of(OURS, change)]
    for index, name in enumerate(CONTESTANTS):
        turns = {
            place: measured.of(name, change)
            for place, change in zip(
                report.offsets(len(changes), index, len(CONTESTANTS)), changes, strict=True
            )
        }
        middles = {place: _median(done, value) for place, done in turns.items() if done}
        bars = axes.bar(
            list(middles),
            [max(middle, floor) for middle in middles.values()],
            0.8 / len(CONTESTANTS),
            color=_COLORS[name],
            label=name,
        )
        shown = [
            f"{middle:.{0 if middle >= 10 or not middle else 1 if middle >= 1 else 2}f}"
            for middle in middles.values()
        ]
        axes.bar_label(bars, shown, padding=2, fontsize=6)
    axes.set_yscale("log")
    axes.set_ylim(floor, axes.get_ylim()[1] * 2)
    names = [change.partition(",")[0].replace(" ", "\n", 1) for change in changes]
    report.tidy(axes, names, title=title)
    axes.tick_params(axis="x", labelsize=8)
