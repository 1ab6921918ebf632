"""faster-whisper: our engine and our service beside the bare library.

The model has the sizes of OpenAI's `tiny` and says the same fifty tokens in each window, so that
every contestant does the same work; each is a process of its own.
"""

from __future__ import annotations

import io
import os
import statistics
import subprocess
import tempfile
import time
import wave
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import httpx
import numpy as np

from benchmarks import report
from benchmarks.contestants import ROOT, Server, Worker, free_port, in_turn, python

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    Turn = Mapping[str, float]
    Turns = Mapping[str, Mapping[str, Sequence[Turn]]]

BARE, OURS, SERVICE = "faster-whisper", "Bentovox engine", "Bentovox over HTTP"
_WORKERS: Final = {
    BARE: "bare",
    OURS: "ours",
    "faster-whisper, a worker a core": "workers",
    "faster-whisper, its own batches": "batched",
}
_CASES: Final = {"one window": (28, 1), "eight at once": (28, 8), "five minutes": (300, 1)}
"""Seconds of sound, and recordings at once."""

_RATE_HZ: Final = 16_000
_TEXT: Final = (
    " and so the story goes on, as it was told to me by one who had been there and had seen it all"
    " with his own eyes, on a cold day in the north, long before any of us was born, when ships"
    " still had sails"
)
_PREPARE: Final = """
import sys
from pathlib import Path
from tests.parrot import TINY, parrot
parrot(Path(sys.argv[1]), sys.argv[2], shape=TINY, end_s=27.0)
"""


class Service:
    """`bentoml serve services.transcription.service:Transcription`, asked by many at once."""

    def __init__(self, stack_python: str, folder: str) -> None:
        """Take a port; `folder` is the model."""
        port = free_port()
        service = "services.transcription.service:Transcription"
        settings = {
            "BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL": folder,
            "BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__DEVICE": "cpu",
            # The profile's int8 would be another model than the bare library's.
            "BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__COMPUTE_TYPE": "default",
        }
        command = [stack_python, "-m", "bentoml", "serve", service, f"--port={port}"]
        self._url = f"http://127.0.0.1:{port}/v1/audio/transcriptions"
        self._server = Server("transcription", command, port, environment=settings)
        self.start, self.stop = self._server.start, self._server.stop

    def ask(self, asked: Mapping[str, int]) -> Turn:
        """Return what a turn took, as `benchmarks.peers.transcription_worker` does."""
        count, recording = asked["count"], _recording(asked["duration_s"])
        with ThreadPoolExecutor(count) as pool:
            began = time.perf_counter()
            firsts_s = list(pool.map(lambda _: self._hear(recording, began), range(count)))
            return {"took_s": time.perf_counter() - began, "first_s": max(firsts_s)}

    def _hear(self, recording: bytes, began: float) -> float:
        form = {"model": "gpt-4o-transcribe", "stream": "true", "language": "en"}
        form["vad_filter"] = "false"  # noise is no speech
        file = {"file": ("noise.wav", recording, "audio/wav")}
        first_s = 0.0
        with httpx.stream("POST", self._url, data=form, files=file, timeout=600) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                if "transcript.text.delta" in line:
                    first_s = first_s or time.perf_counter() - began
        if not first_s:
            raise RuntimeError("the service heard nothing")
        return first_s


def _recording(duration_s: int) -> bytes:
    """Return a WAV of noise."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(duration_s * _RATE_HZ)
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_RATE_HZ)
        file.writeframes((np.clip(noise, -1, 1) * 32767).astype("<i2").tobytes())
    return sound.getvalue()


def main(arguments: list[str]) -> None:
    """Measure all, and write the page and the plot."""
    options = report.parser("transcription", __doc__, rounds=5).parse_args(arguments)
    stack_python = python()
    with tempfile.TemporaryDirectory() as work:
        folder = f"{work}/model"
        subprocess.run([stack_python, "-c", _PREPARE, folder, _TEXT], cwd=ROOT, check=True)
        worker = [stack_python, "-m", "benchmarks.peers.transcription_worker"]
        contestants: dict[str, Any] = {
            name: Worker(kind, [*worker, kind, folder]) for name, kind in _WORKERS.items()
        }
        contestants[SERVICE] = Service(stack_python, folder)
        try:
            for contestant in contestants.values():
                contestant.start()
            turns = {case: _measure(contestants, case, options.rounds) for case in _CASES}
            asked = {"duration_s": 120, "guesses": 2 * options.rounds}
            guesses = {
                "alone": contestants[OURS].ask({**asked, "count": 0}),
                "beside eight recordings": contestants[OURS].ask({**asked, "count": 8}),
            }
        finally:
            for contestant in contestants.values():
                contestant.stop()
    write(options.out, turns, guesses, options.rounds)


def _measure(contestants: Mapping[str, Any], case: str, rounds: int) -> dict[str, list[Turn]]:
    """Return each contestant's turns; the first round warms up and is left out."""
    duration_s, count = _CASES[case]

    def asker(name: str) -> Any:
        def ask(number: int) -> Turn:
            turn: Turn = contestants[name].ask({"duration_s": duration_s, "count": count})
            print(f"  {case}, round {number}, {name}: {turn['took_s']:.2f} s", flush=True)
            return turn

        return ask

    made = in_turn({name: asker(name) for name in contestants}, rounds + 1)
    return {name: turns[1:] for name, turns in made.items()}


def write(folder: Path, turns: Turns, guesses: Mapping[str, Sequence[float]], rounds: int) -> None:
    """Write the page and the plot into `folder`."""
    rows = (
        (name, f"{1000 * statistics.median(took_s):.0f} ms", f"{1000 * max(took_s):.0f} ms")
        for name, took_s in guesses.items()
    )
    report.write(
        folder,
        "benchmarks-transcription",
        _plot(turns),
        rounds=rounds,
        bare=BARE,
        load=os.getloadavg()[0],
        cores=os.cpu_count(),
        tables="\n\n".join(_table(case, of_case) for case, of_case in turns.items()),
        guesses=report.table(("", "median", "slowest"), rows),
    )


def _table(case: str, turns: Mapping[str, Sequence[Turn]]) -> str:
    duration_s, count = _CASES[case]
    rows = []
    for name, mine in turns.items():
        rate = statistics.median(duration_s * count / turn["took_s"] for turn in mine)
        speed = _ratios(turns[BARE], mine, "took_s")
        wait = [1 / ratio for ratio in _ratios(turns[BARE], mine, "first_s")]
        shares = (report.spread(values, form="({}-{})") for values in (speed, wait))
        rows.append((name, *shares, f"{rate:.0f} s"))
    columns = ("", "speed beside bare", "wait for text beside bare", "sound heard a second")
    head = f"## {case.capitalize()}: {count} x {duration_s} s"
    return f"{head}\n\n{report.table(columns, rows)}"


def _ratios(bare: Sequence[Turn], mine: Sequence[Turn], what: str) -> list[float]:
    return [one[what] / other[what] for one, other in zip(bare, mine, strict=True)]


def _plot(turns: Turns) -> Figure:
    colors = (report.GREY, report.BLUE, report.ORANGE, report.RED, report.NAVY)
    figure = report.plot(9, 3.8)
    axes = figure.subplots()
    names = next(iter(turns.values()))
    ratios = {
        name: [_ratios(of_case[BARE], of_case[name], "took_s") for of_case in turns.values()]
        for name in names
    }
    report.bars(axes, ratios, colors)
    axes.axhline(1, color="#333333", linewidth=0.8)
    report.tidy(axes, list(turns), ylabel="speed beside bare faster-whisper")
    axes.legend(
        fontsize="small", frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0)
    )
    return figure
