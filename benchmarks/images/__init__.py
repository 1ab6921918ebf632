"""Images: this repository's way beside stock BentoML and one plain Dockerfile.

nox -s bench -- images                        chat, three rounds: about half an hour

Everything runs in a throw-away docker engine with a registry of its own, below .nox, on a copy of
the tree; all of it is removed at the end but for the figures. That needs Debian and root.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from benchmarks import report
from benchmarks.contestants import ROOT, python
from ci.layers.image import MIB, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, STOCK, SEED = CONTESTANTS = ("Bentovox", "stock BentoML", "one Dockerfile")
CHANGES = COLD, NOTHING, CODE, DEPENDENCY, GROUP, PATCH = (
    *("all, empty engine", "nothing", "code"),
    *("one dependency", "one wheel group", "patched base image"),
)
WARM, EMPTIED = "code, pushed from a warm engine", "code, pushed from an emptied engine"

_WORK = ROOT / ".nox" / "bench-images"
_NEEDED_GB = 20
_BUILD_S: Final = attrgetter("build_s")
_PUSHED: Final = attrgetter("pushed_bytes")
_RAW: Final = attrgetter("raw_bytes")
_COMPRESSED: Final = attrgetter("compressed_bytes")
_PUSHED_AIM_BYTES = 1_000_000
_REBUILT_AIM_S = 5
_EMPTIED_AIM = 1.5
_PLATFORM_COLOR = "#c9ccd1"
_LETTER_MIB = 14  # what a letter takes of the axis


def main(arguments: list[str]) -> None:
    options = report.parser("images", __doc__, rounds=3).parse_args(arguments)
    dev = python("DEV_PYTHON")
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    if free_gb < _NEEDED_GB:
        sys.exit(f"{free_gb:.0f} GB are free here, and this needs {_NEEDED_GB} for a while")
    began = time.monotonic()
    shutil.rmtree(_WORK, ignore_errors=True)
    try:
        # BentoML takes no lock from a hidden folder, and .nox is one.
        with tempfile.TemporaryDirectory(prefix="bentovox-images-") as tree:
            _copy(Path(tree))
            command = [dev, "-m", "benchmarks.images.run", str(options.rounds), str(_WORK)]
            said = subprocess.run(command, cwd=tree, stdout=subprocess.PIPE, check=False)
    finally:
        shutil.rmtree(_WORK, ignore_errors=True)
    if said.returncode:
        sys.exit(said.returncode)
    # Objects by the names that `benchmarks.images.run` prints; by a contestant's name with `vars`.
    measured = json.loads(said.stdout, object_hook=lambda found: SimpleNamespace(**found))
    aims = (f"- {said}: {'met' if is_met else 'not met'}." for said, is_met in _aims(measured))
    report.write(
        options.out,
        "benchmarks-images",
        _plot(measured),
        bento=measured.bento,
        took_min=(time.monotonic() - began) / 60,
        load=measured.load,
        rounds=f"{options.rounds} rounds" if options.rounds > 1 else "one round",
        platform=shown(measured.platform_bytes),
        aims="\n".join(aims),
        sizes=_sizes(measured),
        gates=_gates(measured),
        changes=_changes(measured),
        kept=measured.kept,
        emptied=_emptied(measured),
    )


def _copy(tree: Path) -> None:
    """Copy what git knows, or would take, of the work tree."""
    listed = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    )
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, tree / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def _seconds(turn: Any) -> float:
    """Return how long it took from the change to the image."""
    return float(turn.pack_s + turn.build_s)


def _turns(measured: Any, contestant: str, change: str) -> list[Any]:
    return [one for one in measured.turns if (one.contestant, one.change) == (contestant, change)]


def _layers(measured: Any, name: str) -> tuple[list[Any], list[Any]]:
    """Return an image's layers, and those above the platform's: stock's base is nothing else."""
    sizes = vars(measured.sizes)
    platform = sum(layer.is_base for layer in sizes[STOCK].layers)
    return sizes[name].layers, sizes[name].layers[platform:]


def _aims(measured: Any) -> Iterator[tuple[str, bool]]:
    """Yield what we aim for with what came of it, and whether that is enough."""
    code = _turns(measured, OURS, CODE)
    pushed = max(map(_PUSHED, code))
    said = f"A change of code pushes {shown(pushed)} at most, aim below 1 MB"
    yield said, pushed < _PUSHED_AIM_BYTES
    seconds = report.median(code, _seconds)
    said = f"A change of code is in the image after {seconds:.1f} s, packing the bento included"
    yield f"{said}, aim below {_REBUILT_AIM_S} s", seconds < _REBUILT_AIM_S
    kept = measured.kept
    said = f"A patched platform image leaves {kept.app} of {kept.of_app} app layers"
    yield f"{said} with their digests, aim all", kept.app == kept.of_app
    warm, emptied = (_turns(measured, OURS, change) for change in (WARM, EMPTIED))
    ratio, docker = (
        report.median(emptied, value) / report.median(warm, value) for value in (_seconds, _BUILD_S)
    )
    said = (
        f"An emptied engine with the registry's cache takes {ratio:.2f} times a warm one for "
        f"the same change, packing included ({docker:.2f} times without), aim {_EMPTIED_AIM}"
    )
    yield said, ratio <= _EMPTIED_AIM
    for name in CONTESTANTS:
        count = len(vars(measured.sizes)[name].failed)
        if name == OURS:
            yield f"Our image fails {count} of our gates, aim none", not count
        else:
            yield f"The gates stop {name}: {count} fail, aim at least one", bool(count)


def _times(turns: Sequence[Any]) -> list[str]:
    """Return the seconds of some turns, and those of docker's part."""
    return [report.spread([*map(value, turns)], 1) for value in (_seconds, _BUILD_S)]


def _sizes(measured: Any) -> str:
    columns = (
        *("what", "raw", "compressed", "above the platform image, compressed", "layers"),
        *("largest above it, raw", "compressed", "there for nothing"),
    )
    rows = []
    for name in CONTESTANTS:
        layers, own = _layers(measured, name)
        counts = (sum(map(_RAW, layers)), sum(map(_COMPRESSED, layers)), sum(map(_COMPRESSED, own)))
        most = max(map(_RAW, own)), max(map(_COMPRESSED, own))
        lost = vars(measured.sizes)[name].duplicate_bytes
        rows.append((name, *map(shown, counts), len(layers), *map(shown, (*most, lost))))
    return report.table(columns, rows)


def _gates(measured: Any) -> str:
    failed = [vars(measured.sizes)[name].failed for name in CONTESTANTS]
    rows = (
        (gate, *("**fails**" if gate in of_one else "passes" for of_one in failed))
        for gate in measured.gates
    )
    return report.table(("gate", *CONTESTANTS), rows)


def _changes(measured: Any) -> str:
    rows = [
        (change, name, *_times(turns), shown(turns[-1].pushed_bytes))
        for change in CHANGES
        for name in CONTESTANTS
        if (turns := _turns(measured, name, change))
    ]
    return report.table(("change", "what", "seconds", "docker's part", "pushed"), rows)


def _emptied(measured: Any) -> str:
    columns = (
        *("what", "warm, s", "of it docker", "emptied, s", "of it docker", "times", "pushed"),
    )
    rows = []
    for name in CONTESTANTS:
        warm, emptied = (_turns(measured, name, change) for change in (WARM, EMPTIED))
        times = report.median(emptied, _seconds) / report.median(warm, _seconds)
        pushed = shown(emptied[-1].pushed_bytes)
        rows.append((name, *_times(warm), *_times(emptied), f"{times:.2f}", pushed))
    return report.table(columns, rows)


def _plot(measured: Any) -> Figure:
    colors = dict(zip(CONTESTANTS, (report.NAVY, report.ORANGE, report.RED), strict=True))
    figure = report.plot(11, 8)
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 1.1))
    _draw_layers(figure.add_subplot(grid[0, :]), measured, colors)
    below: tuple[tuple[str, Callable[[Any], float], float], ...] = (
        ("Seconds after a change, packing included", _seconds, 0.1),
        ("MiB pushed after a change", lambda turn: turn.pushed_bytes / MIB, 1e-4),
    )
    for column, (title, value, floor) in enumerate(below):
        axes = figure.add_subplot(grid[1, column])
        # Nothing, and what was not measured, has no height.
        turns = {name: [_turns(measured, name, one) for one in CHANGES] for name in CONTESTANTS}
        heights = {
            name: [[max(value(turn), floor) for turn in of] or [floor] for of in by_change]
            for name, by_change in turns.items()
        }
        report.bars(axes, heights, colors)
        axes.set_yscale("log")
        axes.set_ylim(bottom=floor)
        names = [one.partition(",")[0].replace(" ", "\n", 1) for one in CHANGES]
        report.tidy(axes, names, title=title)
        axes.tick_params(axis="x", labelsize=8)
    report.legend(figure, axes)
    return figure


def _draw_layers(axes: Axes, measured: Any, colors: dict[str, str]) -> None:
    for place, name in enumerate(reversed(CONTESTANTS)):
        layers, own = _layers(measured, name)
        below = len(layers) - len(own)
        widths = [layer.compressed_bytes / MIB for layer in layers]
        *starts, end = accumulate(widths, initial=0.0)
        shades = [_PLATFORM_COLOR] * below + [colors[name]] * len(own)
        style = {"color": shades, "edgecolor": "white", "linewidth": 0.8}
        bars = axes.barh([place] * len(layers), widths, 0.6, left=starts, **style)
        texts = [layer.contents.partition(",")[0] for layer in layers]
        fitting = [
            text if at >= below and width > _LETTER_MIB * len(text) else ""
            for at, (text, width) in enumerate(zip(texts, widths, strict=True))
        ]
        axes.bar_label(bars, fitting, label_type="center", color="white", fontsize=8)
        total = [shown(sum(map(what, layers))) for what in (_COMPRESSED, _RAW)]
        axes.text(end, place, " {}, {} unpacked".format(*total), va="center", fontsize=9)
    axes.set_xlim(0, axes.get_xlim()[1] * 1.2)
    axes.set_yticks(range(len(CONTESTANTS)), list(reversed(CONTESTANTS)))
    axes.set(title="Layers, MiB compressed; grey: the platform image that all stand on")
    axes.spines[["top", "right"]].set_visible(False)
