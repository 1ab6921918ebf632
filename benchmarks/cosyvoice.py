"""CosyVoice: our service beside the bare upstream call and upstream's own server.

`nox -s bench -- cosyvoice`. Everything runs upstream's code on tiny random weights that are made
here, with one torch thread a process; each round gives every contestant a turn, so that a ratio
compares what ran within seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import cosyvoice_report
from benchmarks.cosyvoice_contestants import InProcess, OurService, Setup, UpstreamServer, Whole
from benchmarks.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.cosyvoice_contestants import Contestant
    from benchmarks.streams import Turn

CONCURRENCY = (1, 2, 4, 8)
OURS = "Bentovox speech over HTTP"
WHOLE = "Bentovox, whole"
BARE = "bare upstream call"
THEIRS = "upstream's FastAPI server"
TEXT = (
    "It is a fine morning for a long walk by the sea, and the boats are already out beyond "
    "the harbour wall."
)
_SHORT = "Yes, of course."
_TRANSCRIPT = "Hello there my friend."

_PREPARE = """
import sys
from pathlib import Path
import numpy as np
import soundfile
from services.speech.engines.cosyvoice import code
root, folder, families = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
found = code.load(Path(root) if root else None)
from tests.cosyvoice import tiny
wave = np.random.default_rng(0).standard_normal(5 * 24_000) * 0.1
soundfile.write(folder / "voice.wav", wave, 24_000)
for family in map(int, families.split(",")):
    if family in found.families:
        print(family, tiny.build(family, folder), sep="\\t")
print("code", found.root, found.version, sep="\\t")
"""


@dataclass
class Line:
    """One contestant at one concurrency: a turn a round."""

    contestant: str
    concurrency: int
    turns: list[Turn] = field(default_factory=list)


@dataclass
class Measured:
    """What was measured of one family.

    Attributes:
        family: 2 or 3.
        lines: every contestant at every concurrency.
        over_http_ms: time to first audio of our service, one stream at a time.
        in_process_ms: the same of our engine alone; same place, same text, same seed.
    """

    family: int
    lines: list[Line]
    over_http_ms: list[float]
    in_process_ms: list[float]


def main(arguments: Sequence[str]) -> int:
    """Measure and write the page and the plot."""
    parser = argparse.ArgumentParser(prog="nox -s bench -- cosyvoice", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds at each concurrency")
    parser.add_argument("--pairs", type=int, default=30, help="pairs with and without HTTP")
    parser.add_argument("--families", default="2,3", help="those that the code can run are taken")
    parser.add_argument("--code", default="", help="upstream's code; by default the project's own")
    parser.add_argument("--upstream-server", type=Path, help="upstream's fastapi/server.py")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where the report goes")
    options = parser.parse_args(arguments)
    python = os.environ.get("COSYVOICE_PYTHON") or os.environ.get("STACK_PYTHON")
    if not python:
        sys.exit("STACK_PYTHON is not set: run `nox -s bench -- cosyvoice`")
    began, load = time.monotonic(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        models, version, root = _prepare(python, options.code, Path(folder), options.families)
        server = options.upstream_server or root / "runtime" / "python" / "fastapi" / "server.py"
        if not server.is_file():
            print(f"  without {THEIRS}: no {server}; name it with --upstream-server", flush=True)
            server = None
        measured = [
            asyncio.run(_measure(family, _contestants(python, model, root, server), options))
            for family, model in models.items()
        ]
    options.out.mkdir(parents=True, exist_ok=True)
    cosyvoice_report.write(
        options.out,
        measured,
        names=(OURS, WHOLE, BARE, THEIRS),
        text=TEXT,
        rounds=options.rounds,
        version=version,
        took_s=time.monotonic() - began,
        load=load,
    )
    print((options.out / "benchmarks-cosyvoice.md").read_text(encoding="utf-8"))
    return 0


def _prepare(
    python: str, root: str, folder: Path, families: str
) -> tuple[dict[int, Path], str, Path]:
    """Make tiny models and a recording; return the models, the code's version and its place."""
    done = subprocess.run(
        [python, "-c", _PREPARE, root, str(folder), families],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit("the tiny models could not be made; the reason is above")
    rows = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    models = {int(row[0]): Path(row[1]) for row in rows if row[0] != "code"}
    (place,) = (row for row in rows if row[0] == "code")
    if not models:
        sys.exit(f"the code in {place[1]} runs none of the families {families}")
    return models, place[2], Path(place[1])


def _contestants(
    python: str, model: Path, root: Path, server: Path | None
) -> dict[str, Contestant]:
    voice = model.parent / "voice.wav"
    setup = Setup(python, model, root, voice, _TRANSCRIPT)
    ours = OurService(setup)
    chosen: dict[str, Contestant] = {
        BARE: InProcess("benchmarks.peers.cosyvoice_bare", setup),
        OURS: ours,
        WHOLE: Whole(ours),
    }
    if server is not None:
        chosen[THEIRS] = UpstreamServer(server, setup)
    chosen["engine"] = InProcess("benchmarks.peers.cosyvoice_engine", setup)
    return chosen


async def _measure(family: int, contestants: dict[str, Contestant], options: Any) -> Measured:
    print(f"family {family}: starting", flush=True)
    try:
        await asyncio.gather(*(contestant.start() for contestant in contestants.values()))
        for contestant in contestants.values():
            await contestant.turn([TEXT], seed=0)
        engine = contestants.pop("engine")
        try:
            http_ms, alone_ms = await _pairs(contestants[OURS], engine, options.pairs)
        finally:
            await engine.stop()  # nothing idle beside the rounds that could wake up
        lines = await _rounds(contestants, options.rounds)
    finally:
        await asyncio.gather(*(contestant.stop() for contestant in contestants.values()))
    return Measured(family, lines, http_ms, alone_ms)


async def _pairs(
    ours: Contestant, engine: Contestant, count: int
) -> tuple[list[float], list[float]]:
    """Return times to first audio with and without HTTP, ms, of the same seeds in turns."""
    seen: dict[Contestant, list[float]] = {ours: [], engine: []}
    for number in range(count):
        order = (ours, engine) if number % 2 else (engine, ours)
        for contestant in order:
            seen[contestant].append((await contestant.turn([_SHORT], seed=number)).first_ms)
    return seen[ours], seen[engine]


async def _rounds(contestants: dict[str, Contestant], rounds: int) -> list[Line]:
    lines = []
    names = list(contestants)
    for concurrency in CONCURRENCY:
        here = {name: Line(name, concurrency) for name in names}
        for number in range(rounds):
            shift = number % len(names)  # nobody is always the first, or after the same one
            turns = {}
            for name in [*names[shift:], *names[:shift]]:
                texts = [TEXT] * concurrency
                turns[name] = await contestants[name].turn(texts, seed=100 * number)
            for name, line in here.items():
                line.turns.append(turns[name])
        lines += here.values()
        shown = {name: round(line.turns[-1].first_ms) for name, line in here.items()}
        print(f"  {concurrency} at once, first audio in ms: {json.dumps(shown)}", flush=True)
    return lines
