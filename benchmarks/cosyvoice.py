"""CosyVoice: our service beside the bare upstream call and upstream's own server.

Everything runs upstream's code on tiny random weights that are made here, with one torch thread a
process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from benchmarks import report
from benchmarks.contestants import ROOT, Server, Worker, in_turn, python, running
from benchmarks.cosyvoice_contestants import OurService, Setup, UpstreamServer, bare
from benchmarks.streams import Turn, continuity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    Turns = Mapping[int, Mapping[str, Sequence[Turn]]]
    """By how many streams, and by contestant."""

_MAKE_S = 240
_CONCURRENCY = (1, 2, 4, 8)
_CROWDS = (16, 32, 64)  # of our streams and the bare call's, once
_JUDGED = _CONCURRENCY[2:]  # at which the aims apply
OURS, WHOLE = "Bentovox speech over HTTP", "Bentovox, whole"
BARE, THEIRS = "bare upstream call", "upstream's FastAPI server"
_FIRST: Final = attrgetter("first_ms")
_RATE: Final = attrgetter("audio_per_s")
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


def main(arguments: list[str]) -> None:
    """Measure and write the page and the plot."""
    parser = report.parser("cosyvoice", __doc__, rounds=3)
    parser.add_argument("--upstream-server", type=Path, help="fastapi/server.py, if elsewhere")
    said = "of audio, after which memory is to be what it was (%(default)s)"
    parser.add_argument("--hours", type=float, default=1.0, help=said)
    options = parser.parse_args(arguments)
    served = os.environ.get("COSYVOICE_PYTHON") or python()
    began, load = time.monotonic(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        setups, code, version = prepared(served, Path(folder))
        server = options.upstream_server or code / "runtime" / "python" / "fastapi" / "server.py"
        if not server.is_file():
            print(f"  without {THEIRS}: no {server}; name it with --upstream-server", flush=True)
        measured = {setup.family: _measure(setup, server, options.rounds) for setup in setups}
        memory = _memory(setups[-1], options.hours)
    report.write(
        options.out,
        "benchmarks-cosyvoice",
        _plot(measured, memory),
        crowds=report.listed(_CROWDS),
        crowd=_crowd(measured),
        hours=options.hours,
        memory=_growth(memory),
        letters=len(TEXT),
        rounds=options.rounds,
        version=version[:12],
        took_s=time.monotonic() - began,
        load=load,
        aims="\n".join(line for family, turns in measured.items() for line in _aims(family, turns)),
        tables="\n\n".join(
            f"## Family {one}\n\n{_table(turns)}" for one, turns in measured.items()
        ),
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


def _measure(setup: Setup, server: Path, rounds: int) -> Turns:
    print(f"family {setup.family}: starting", flush=True)
    ours, called = OurService(setup), bare(setup)
    speaking: dict[str, Callable[[Sequence[str], int], Turn]] = {
        BARE: called.turn,
        OURS: ours.turn,
        WHOLE: partial(ours.turn, streams=False),
    }
    processes: list[Server | Worker] = [called, ours]
    if server.is_file():
        theirs = UpstreamServer(server, setup)
        processes.append(theirs)
        speaking[THEIRS] = theirs.turn

    def turns_of(speak: Callable[[Sequence[str], int], Turn]) -> Callable[[int, int], Turn]:
        return lambda streams, number: speak([TEXT] * streams, 100 * number)

    with running(*processes):
        contestants = {name: turns_of(speak) for name, speak in speaking.items()}
        made = in_turn(contestants, _CONCURRENCY, rounds)
        for streams in _CROWDS:
            made[streams] = {name: [contestants[name](streams, 1)] for name in (BARE, OURS)}
            print(f"  {streams}: done", flush=True)
        return made


def _memory(setup: Setup, hours: float) -> list[tuple[float, float]]:
    """Return the service's memory in MiB after so many hours of audio, eight streams at a time."""
    service, made_s = OurService(setup), 0.0
    held = []
    with running(service):
        while made_s < hours * 3600:
            turn = service.turn([TEXT] * 8, len(held))
            made_s += sum(stream.audio_s for stream in turn.streams)
            held.append((made_s / 3600, service.memory_mib()))
    return held


def _growth(memory: Sequence[tuple[float, float]]) -> str:
    """Say how much more memory was held in the last fifth than in the second."""
    fifth = max(1, len(memory) // 5)
    held = [mib for _, mib in memory]
    before, after = median(held[fifth : 2 * fifth] or held), median(held[-fifth:])
    return f"{after - before:+.0f} MiB to {after:.0f} MiB"


def _crowd(measured: Mapping[int, Turns]) -> str:
    """Say how many streams of crowds were continuous."""
    return "\n".join(
        f"- Family {family}, {report.listed(_CROWDS)} streams: continuous "
        + report.listed(f"{continuity(turns[streams][name]):.0%}" for streams in _CROWDS)
        + f" ({name})."
        for family, turns in measured.items()
        for name in (OURS, BARE)
    )


def _table(measured: Turns) -> str:
    columns = (
        *("what", "streams", "first audio, of bare", "audio/s, of bare", "continuous"),
        *("first audio, ms", "real-time factor", "audio/s"),
    )
    rows = [
        (
            *(name, streams),
            *(report.spread(report.beside(mine, turns[BARE], what)) for what in (_FIRST, _RATE)),
            f"{continuity(mine):.0%}",
            f"{report.median(mine, _FIRST):.0f}",
            f"{report.median(mine, attrgetter('real_time_factor')):.2f}",
            f"{report.median(mine, _RATE):.2f}",
        )
        for streams, turns in measured.items()
        for name, mine in turns.items()
    ]
    return report.table(columns, rows)


def _aims(family: int, measured: Turns) -> list[str]:
    """Return a sentence on how our service compares with each peer.

    Upstream's server makes audio whole, in one pass, which is less work than a stream: its rate is
    compared with ours when we are asked for the same.
    """
    rows = []
    for streams in _JUDGED:
        turns = measured[streams]
        for name, like in ((BARE, OURS), (THEIRS, WHOLE)):
            if name not in turns:
                continue
            sooner = report.beside(turns[name], turns[OURS], _FIRST)
            more = report.beside(turns[like], turns[name], _RATE)
            how = "" if like == OURS else ", made whole as it makes it"
            rows.append(
                f"- Family {family}, {streams} streams, beside {name}: first audio "
                f"{report.spread(sooner)} times as soon: {_verdict(sooner)}; {report.spread(more)} "
                f"times its audio a second{how}: {_verdict(more)}."
            )
    return rows


def _verdict(better: list[float]) -> str:
    """Return what all rounds agree on; a ratio above 1 is better."""
    if min(better) > 1:
        return "ahead"
    return "behind" if max(better) < 1 else "level within the spread"


def _plot(measured: Mapping[int, Turns], memory: Sequence[tuple[float, float]]) -> Figure:
    colors = {BARE: report.GREY, OURS: report.NAVY, WHOLE: report.SKY, THEIRS: report.ORANGE}
    figure = report.plot(14, 3.8 * len(measured) + 2.6)
    *parts, last = figure.subfigures(len(measured) + 1, height_ratios=[3.8] * len(measured) + [2.4])
    for (family, turns), part in zip(measured.items(), parts, strict=True):
        first, rate, gaps = part.subplots(1, 3)
        report.lines(first, report.by_contestant(turns, _FIRST), colors)
        report.lines(rate, report.by_contestant(turns, _RATE), colors)
        shares = report.by_contestant(turns, lambda turn: continuity([turn]))
        report.bars(gaps, shares, colors)
        first.set_yscale("log")
        title, what = f"Family {family}: ", "streams at once"
        report.tidy(first, turns, title=f"{title}first audio, ms", xlabel=what)
        report.tidy(rate, turns, title=f"{title}audio a second", xlabel=what, ylim=(0, None))
        title += "streams without an audible gap"
        report.tidy(gaps, turns, title=title, xlabel=what, ylim=(0, 1.05))
    axes = last.subplots()
    axes.plot(*zip(*memory, strict=True), color=report.NAVY)
    axes.set(title="Bentovox: memory, MiB", xlabel="hours of audio made", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    report.legend(figure, first)
    return figure
