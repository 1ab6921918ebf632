"""The page `docs/benchmarks-images.md` and its plot."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Final

from benchmarks import report
from benchmarks.images import results
from benchmarks.images.results import CHANGES, CONTESTANTS, OURS, STOCK
from ci.layers.gates import GATES
from ci.sizes import MIB, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from benchmarks.images.results import Layer, Measured, Turn

_SECONDS: Final = attrgetter("seconds")
_BUILD_S: Final = attrgetter("build_s")
_PUSHED_AIM_BYTES = 1_000_000
_REBUILT_AIM_S = 5
_EMPTIED_AIM = 1.5
_COLORS = dict(zip(CONTESTANTS, (report.NAVY, report.ORANGE, report.RED), strict=True))
_PLATFORM_COLOR = "#c9ccd1"
_LETTER_MIB = 14  # what a letter takes of the axis


def write(folder: Path, measured: Measured, *, took_s: float, rounds: int) -> None:
    """Write the page and the plot into `folder`; `rounds` is 0 for a quick run."""
    report.write(
        folder,
        "benchmarks-images",
        _plot(measured),
        bento=measured.bento,
        took_min=took_s / 60,
        load=measured.load,
        rounds=f"{rounds} rounds" if rounds > 1 else "one round",
        platform=shown(measured.platform_bytes),
        aims="\n".join(
            f"- {said}: {'met' if is_met else 'not met'}." for said, is_met in _aims(measured)
        ),
        sizes=_sizes(measured),
        gates=_gates(measured),
        changes=_changes(measured),
        kept=measured.kept,
        emptied=_emptied(measured) if rounds else "Not measured in a quick run.",
    )


def _aims(measured: Measured) -> Iterator[tuple[str, bool]]:
    """Yield what we aim for with what came of it, and whether that is enough."""
    code = measured.of(OURS, results.CODE)
    pushed = max(turn.pushed_bytes for turn in code)
    said = f"A change of code pushes {shown(pushed)} at most, aim below 1 MB"
    yield said, pushed < _PUSHED_AIM_BYTES
    seconds = report.median(code, _SECONDS)
    said = f"A change of code is in the image after {seconds:.1f} s, packing the bento included"
    yield f"{said}, aim below {_REBUILT_AIM_S} s", seconds < _REBUILT_AIM_S
    if kept := measured.kept:
        said = f"A patched platform image leaves {kept.app} of {kept.of_app} app layers"
        yield f"{said} with their digests, aim all", kept.app == kept.of_app
    warm, emptied = (measured.of(OURS, change) for change in (results.WARM, results.EMPTIED))
    if warm and emptied:
        ratio, docker = (
            report.median(emptied, value) / report.median(warm, value)
            for value in (_SECONDS, _BUILD_S)
        )
        said = (
            f"An emptied engine with the registry's cache takes {ratio:.2f} times a warm one for "
            f"the same change, packing included ({docker:.2f} times without), aim {_EMPTIED_AIM}"
        )
        yield said, ratio <= _EMPTIED_AIM
    for name in CONTESTANTS:
        count = len(measured.sizes[name].failed)
        if name == OURS:
            yield f"Our image fails {count} of our gates, aim none", not count
        else:
            yield f"The gates stop {name}: {count} fail, aim at least one", bool(count)


def _times(turns: Sequence[Turn]) -> list[str]:
    """Return the seconds of some turns, and those of docker's part."""
    return [report.spread([*map(value, turns)], 1) for value in (_SECONDS, _BUILD_S)]


def _total(layers: Sequence[Layer], value: str) -> str:
    return shown(sum(map(attrgetter(value), layers)))


def _largest(layers: Sequence[Layer], value: str) -> str:
    return shown(max(map(attrgetter(value), layers)))


def _sizes(measured: Measured) -> str:
    columns = (
        *("what", "raw", "compressed", "above the platform image, compressed", "layers"),
        *("largest above it, raw", "compressed", "there for nothing"),
    )
    rows = []
    for name in CONTESTANTS:
        size, own = measured.sizes[name], _above(name, measured)
        rows.append(
            (
                *(name, _total(size.layers, "raw_bytes"), _total(size.layers, "compressed_bytes")),
                *(_total(own, "compressed_bytes"), len(size.layers), _largest(own, "raw_bytes")),
                *(_largest(own, "compressed_bytes"), shown(size.duplicate_bytes)),
            )
        )
    return report.table(columns, rows)


def _above(name: str, measured: Measured) -> list[Layer]:
    """Return the layers that are not the platform image's: stock's base is nothing else."""
    platform = sum(layer.is_base for layer in measured.sizes[STOCK].layers)
    return measured.sizes[name].layers[platform:]


def _gates(measured: Measured) -> str:
    failed = [measured.sizes[name].failed for name in CONTESTANTS]
    rows = (
        (gate.name, *("**fails**" if gate.name in of_one else "passes" for of_one in failed))
        for gate in GATES
    )
    return report.table(("gate", *CONTESTANTS), rows)


def _changes(measured: Measured) -> str:
    columns = ("change", "what", "seconds", "docker's part", "pushed")
    rows = [
        (change, name, *_times(turns), shown(turns[-1].pushed_bytes))
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
        times = report.median(emptied, _SECONDS) / report.median(warm, _SECONDS)
        pushed = shown(emptied[-1].pushed_bytes)
        rows.append((name, *_times(warm), *_times(emptied), f"{times:.2f}", pushed))
    return report.table(columns, rows)


def _plot(measured: Measured) -> Figure:
    figure = report.plot(11, 8)
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 1.1))
    _draw_layers(figure.add_subplot(grid[0, :]), measured)
    seconds, pushed = (figure.add_subplot(grid[1, column]) for column in (0, 1))
    _draw_changes(seconds, measured, _SECONDS, floor=0.1)
    _draw_changes(pushed, measured, lambda turn: turn.pushed_bytes / MIB, floor=1e-4)
    seconds.set_title("Seconds after a change, packing included")
    pushed.set_title("MiB pushed after a change")
    report.legend(figure, pushed)
    return figure


def _draw_layers(axes: Axes, measured: Measured) -> None:
    ends = []
    for place, name in enumerate(reversed(CONTESTANTS)):
        layers, own = measured.sizes[name].layers, _above(name, measured)
        start = 0.0
        for layer in layers:
            width = layer.compressed_bytes / MIB
            color, shade = (_COLORS[name], "white") if layer in own else (_PLATFORM_COLOR, "black")
            style = {"color": color, "edgecolor": "white", "linewidth": 0.8}
            bar = axes.barh(place, width, 0.6, left=start, **style)
            text = layer.contents.partition(",")[0]
            if width > _LETTER_MIB * len(text):
                axes.bar_label(bar, [text], label_type="center", color=shade, fontsize=8)
            start += width
        total = f" {_total(layers, 'compressed_bytes')}, {_total(layers, 'raw_bytes')} unpacked"
        axes.text(start, place, total, va="center", fontsize=9)
        ends.append(start)
    axes.set(xlim=(0, max(ends) * 1.25))
    axes.set_yticks(range(len(CONTESTANTS)), list(reversed(CONTESTANTS)))
    axes.set(title="Layers, MiB compressed; grey: the platform image that all stand on")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_changes(
    axes: Axes, measured: Measured, value: Callable[[Turn], float], *, floor: float
) -> None:
    """Draw what each change cost whom; nothing and what was not measured has no height."""
    changes = [change for change in CHANGES if measured.of(OURS, change)]
    turns = {name: [measured.of(name, change) for change in changes] for name in CONTESTANTS}
    heights = {
        name: [[max(value(turn), floor) for turn in of] or [floor] for of in by_change]
        for name, by_change in turns.items()
    }
    for drawn, by_change in zip(report.bars(axes, heights, _COLORS), turns.values(), strict=True):
        middles = [report.median(of, value) if of else None for of in by_change]
        labels = ["" if one is None else f"{one:.3g}" for one in middles]
        axes.bar_label(drawn, labels, padding=2, fontsize=6)
    axes.set_yscale("log")
    axes.set_ylim(floor, axes.get_ylim()[1] * 2)
    report.tidy(axes, [one.partition(",")[0].replace(" ", "\n", 1) for one in changes])
    axes.tick_params(axis="x", labelsize=8)
