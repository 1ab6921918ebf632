"""CosyVoice: our service beside the bare upstream call and upstream's own server.

Everything runs upstream's code on tiny random weights that are made here, with one torch thread a
process.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import report
from benchmarks.contestants import ROOT, in_turn, python
from benchmarks.cosyvoice_contestants import InProcess, OurService, Setup, UpstreamServer
from benchmarks.streams import Turn, continuity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.figure import Figure

    Speak = Callable[[Sequence[str], int], Turn]

_MAKE_S = 240
_CONCURRENCY = (1, 2, 4, 8)
_JUDGED = _CONCURRENCY[2:]  # at which the aims apply
OURS, WHOLE = "Bentovox speech over HTTP", "Bentovox, whole"
BARE, THEIRS = "bare upstream call", "upstream's FastAPI server"
TEXT = (
    "It is a fine morning for a long walk by the sea, and the boats are already out beyond "
    "the harbour wall."
)
_TRANSCRIPT = "Hello there my friend."

_PREPARE = """
import sys
from pathlib import Path
import numpy as np
import soundfile
from services.speech.engines.cosyvoice import upstream_code
folder, full = Path(sys.argv[1]), sys.argv[2] == "full"
found = upstream_code.load()
from tests.cosyvoice import tiny
wave = np.random.default_rng(0).standard_normal(5 * 24_000) * 0.1
soundfile.write(folder / "voice.wav", wave, 24_000)
for family in ({3} if full else {2, 3}) & set(found.families):
    print(family, tiny.build(family, folder, full=full), sep="\\t")
print("code", found.root, found.version, sep="\\t")
"""


@dataclass(frozen=True)
class Line:
    """One contestant at one concurrency: a turn a round."""

    contestant: str
    concurrency: int
    turns: Sequence[Turn]

    def beside(self, peer: Line, value: Callable[[Turn], float]) -> list[float]:
        """Return each round's ratio of a value to the peer's."""
        pairs = zip(self.turns, peer.turns, strict=True)
        return [value(mine) / value(theirs) for mine, theirs in pairs]

    def median(self, value: Callable[[Turn], float]) -> float:
        """Return the median over the rounds."""
        return statistics.median(map(value, self.turns))


@dataclass(frozen=True)
class Measured:
    """What was measured of one family (2 or 3): every contestant at every concurrency."""

    family: int
    lines: Sequence[Line]

    def line(self, contestant: str, concurrency: int) -> Line | None:
        """Return a contestant's line; None if it was not measured."""
        found = (line for line in self.lines if line.contestant == contestant)
        return next((line for line in found if line.concurrency == concurrency), None)


def main(arguments: list[str]) -> None:
    """Measure and write the page and the plot."""
    parser = report.parser("cosyvoice", __doc__, rounds=3)
    parser.add_argument("--upstream-server", type=Path, help="fastapi/server.py, if elsewhere")
    options = parser.parse_args(arguments)
    served = os.environ.get("COSYVOICE_PYTHON") or python()
    began, load = time.monotonic(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        setups, code, version = prepared(served, Path(folder))
        server = options.upstream_server or code / "runtime" / "python" / "fastapi" / "server.py"
        if not server.is_file():
            print(f"  without {THEIRS}: no {server}; name it with --upstream-server", flush=True)
        measured = [_measure(setup, server, options.rounds) for setup in setups]
    write(
        options.out,
        measured,
        rounds=options.rounds,
        version=version[:12],
        took_s=time.monotonic() - began,
        load=load,
    )


def prepared(served: str, folder: Path, *, full: bool = False) -> tuple[list[Setup], Path, str]:
    """Make tiny models, or family 3's at its full size, and a recording.

    Returns:
        A setup for each family, the last one newest; the code and its version.
    """
    done = subprocess.run(
        [served, "-c", _PREPARE, str(folder), "full" if full else "tiny"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=_MAKE_S,
    )
    if done.returncode:
        sys.exit("the models could not be made; the reason is above")
    *models, (_, place, version) = (
        line.split("\t") for line in done.stdout.splitlines() if "\t" in line
    )
    if not models:
        sys.exit(f"the code in {place} does not run family {'3' if full else '2 or 3'}")
    voice = folder / "voice.wav"
    setups = [Setup(served, int(which), Path(model), voice, _TRANSCRIPT) for which, model in models]
    return setups, Path(place), version


def _measure(setup: Setup, server: Path, rounds: int) -> Measured:
    print(f"family {setup.family}: starting", flush=True)
    ours, bare = OurService(setup), InProcess("cosyvoice_bare", setup)
    processes: list[Any] = [ours, bare]
    contestants: dict[str, Speak] = {
        BARE: bare.turn,
        OURS: ours.turn,
        WHOLE: partial(ours.turn, streams=False),
    }
    if server.is_file():
        processes.append(UpstreamServer(server, setup))
        contestants[THEIRS] = processes[-1].turn
    try:
        with ThreadPoolExecutor(len(processes)) as pool:
            list(pool.map(lambda process: process.start(), processes))
        for speak in contestants.values():  # warm
            speak([TEXT], 0)
        lines = [line for count in _CONCURRENCY for line in _lines(contestants, count, rounds)]
    finally:
        for process in processes:
            process.stop()
    return Measured(setup.family, lines)


def _lines(contestants: dict[str, Speak], concurrency: int, rounds: int) -> list[Line]:
    def turns_of(speak: Speak) -> Callable[[int], Turn]:
        return lambda number: speak([TEXT] * concurrency, 100 * number)

    made = in_turn({name: turns_of(speak) for name, speak in contestants.items()}, rounds)
    lines = [Line(name, concurrency, turns) for name, turns in made.items()]
    shown = ", ".join(f"{line.contestant} {line.median(_first):.0f}" for line in lines)
    print(f"  {concurrency} at once, first audio in ms: {shown}", flush=True)
    return lines


def write(folder: Path, measured: Sequence[Measured], **figures: object) -> None:
    """Write the page and the plot into `folder`; `figures` are about the run itself."""
    report.write(
        folder,
        "benchmarks-cosyvoice",
        _plot(measured),
        letters=len(TEXT),
        **figures,
        aims="\n".join(line for one in measured for line in _aims(one)),
        tables="\n\n".join(f"## Family {one.family}\n\n{_table(one)}" for one in measured),
    )


def _first(turn: Turn) -> float:
    return turn.first_ms


def _rate(turn: Turn) -> float:
    return turn.audio_per_s


def _table(measured: Measured) -> str:
    columns = (
        *("what", "streams", "first audio, of bare", "audio/s, of bare", "continuous"),
        *("first audio, ms", "real-time factor", "audio/s"),
    )
    rows = []
    for line in measured.lines:
        bare = measured.line(BARE, line.concurrency)
        assert bare is not None  # noqa: S101
        shares = (report.spread(line.beside(bare, value)) for value in (_first, _rate))
        rows.append(
            (
                *(line.contestant, line.concurrency, *shares, f"{continuity(line.turns):.0%}"),
                f"{line.median(_first):.0f}",
                f"{line.median(lambda turn: turn.real_time_factor):.2f}",
                f"{line.median(_rate):.2f}",
            )
        )
    return report.table(columns, rows)


def _aims(measured: Measured) -> list[str]:
    """Return a sentence on how our service compares with each peer.

    Upstream's server makes audio whole, in one pass, which is less work than a stream: its rate is
    compared with ours when we are asked for the same.
    """
    rows = []
    for streams in _JUDGED:
        for name, like in ((BARE, OURS), (THEIRS, WHOLE)):
            peer, ours, same = (measured.line(one, streams) for one in (name, OURS, like))
            if peer is None or ours is None or same is None:
                continue
            sooner = peer.beside(ours, _first)
            more = same.beside(peer, _rate)
            how = "" if same is ours else ", made whole as it makes it"
            rows.append(
                f"- Family {measured.family}, {streams} streams, beside {name}: first audio "
                f"{report.spread(sooner)} times as soon: {_verdict(sooner)}; {report.spread(more)} "
                f"times its audio a second{how}: {_verdict(more)}."
            )
    return rows


def _verdict(better: list[float]) -> str:
    """Return what all rounds agree on; a ratio above 1 is better."""
    if min(better) > 1:
        return "ahead"
    return "behind" if max(better) < 1 else "level within the spread"


def _plot(measured: Sequence[Measured]) -> Figure:
    colors = (report.GREY, report.NAVY, report.SKY, report.ORANGE)
    figure = report.plot(11, 3.8 * len(measured))
    grid = figure.subplots(len(measured), 2, squeeze=False)
    for one, (left, right) in zip(measured, grid, strict=True):
        names = list(dict.fromkeys(line.contestant for line in one.lines))
        for index, (name, color) in enumerate(zip(names, colors, strict=False)):
            mine = [line for line in one.lines if line.contestant == name]
            left.errorbar(
                range(len(mine)),
                [line.median(_first) for line in mine],
                yerr=report.errors([[turn.first_ms for turn in line.turns] for line in mine]),
                marker="o",
                capsize=2,
                color=color,
                label=name,
            )
            places = report.offsets(len(mine), index, len(names))
            shares = [continuity(line.turns) for line in mine]
            right.bar(places, shares, 0.8 / len(names), color=color)
        left.set_yscale("log")
        title, what = f"Family {one.family}: ", "streams at once"
        report.tidy(left, _CONCURRENCY, title=f"{title}first audio, ms", xlabel=what)
        title += "share of streams without an audible gap"
        report.tidy(right, _CONCURRENCY, title=title, xlabel=what, ylim=(0, 1.05))
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
