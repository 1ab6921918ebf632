"""faster-whisper: our engine and our service beside the bare library.

The model has the sizes of OpenAI's `tiny` and says the same fifty tokens in each window, so that
every contestant does the same work; each is a process of its own.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
from functools import partial
from io import BytesIO
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import httpx
import numpy as np
import soundfile

from benchmarks import report
from benchmarks.contestants import ROOT, Service, Worker, in_turn, python, running
from benchmarks.streams import at_once

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from matplotlib.figure import Figure

    Turn = Mapping[str, Any]
    Turns = Mapping[str, Mapping[str, Sequence[Turn]]]
    """By case, and by contestant."""

_TOOK: Final = itemgetter("wall_s")
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


class OurService(Service):
    """The transcription role, asked by many at once."""

    def __init__(self, stack_python: str, folder: str) -> None:
        """Take a port; `folder` is the model."""
        super().__init__(
            "transcription",
            stack_python,
            BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL=folder,
            BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__DEVICE="cpu",
            # The profile's int8 would be another model than the bare library's.
            BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__COMPUTE_TYPE="default",
        )

    def ask(self, asked: Mapping[str, int]) -> Turn:
        """Return a turn, as `benchmarks.peers.transcription_worker` does."""
        return at_once(self._hear, [_recording(asked["duration_s"])] * asked["count"])

    def _hear(self, recording: bytes) -> Iterator[float]:
        form = {"model": "gpt-4o-transcribe", "stream": "true", "language": "en"}
        form["vad_filter"] = "false"  # noise is no speech
        file = {"file": ("noise.wav", recording, "audio/wav")}
        url = f"{self.url}/v1/audio/transcriptions"
        with httpx.stream("POST", url, data=form, files=file, timeout=600) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                if "transcript.text.delta" in line:
                    yield 0.0


def _recording(duration_s: int) -> bytes:
    """Return a WAV of noise."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(duration_s * _RATE_HZ)
    sound = BytesIO()
    soundfile.write(sound, noise, _RATE_HZ, format="WAV", subtype="PCM_16")
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
        contestants[SERVICE] = OurService(stack_python, folder)
        turns_of = {name: partial(_turn, contestant) for name, contestant in contestants.items()}
        with running(*contestants.values()):
            turns = in_turn(turns_of, _CASES, options.rounds)
            asked = {"duration_s": 120, "guesses": 2 * options.rounds}
            guesses = {
                "alone": contestants[OURS].ask({**asked, "count": 0}),
                "beside eight recordings": contestants[OURS].ask({**asked, "count": 8}),
            }
    rows = (
        (name, f"{1000 * statistics.median(took_s):.0f} ms", f"{1000 * max(took_s):.0f} ms")
        for name, took_s in guesses.items()
    )
    report.write(
        options.out,
        "benchmarks-transcription",
        _plot(turns),
        rounds=options.rounds,
        bare=BARE,
        load=os.getloadavg()[0],
        cores=os.cpu_count(),
        tables="\n\n".join(_table(case, of_case) for case, of_case in turns.items()),
        guesses=report.table(("", "median", "slowest"), rows),
    )


def _turn(contestant: Any, case: str, _number: int) -> Turn:
    duration_s, count = _CASES[case]
    taken: Turn = contestant.ask({"duration_s": duration_s, "count": count})
    return taken


def _first_s(turn: Turn) -> float:
    """Return when the last recording had its first text."""
    return max(arrivals[0][0] for arrivals in turn["streams"])


def _table(case: str, turns: Mapping[str, Sequence[Turn]]) -> str:
    duration_s, count = _CASES[case]
    rows = []
    for name, mine in turns.items():
        speed = report.beside(turns[BARE], mine, _TOOK)
        wait = report.beside(mine, turns[BARE], _first_s)
        shares = (report.spread(values, form="({}-{})") for values in (speed, wait))
        rows.append((name, *shares, f"{duration_s * count / report.median(mine, _TOOK):.0f} s"))
    columns = ("", "speed beside bare", "wait for text beside bare", "sound heard a second")
    head = f"## {case.capitalize()}: {count} x {duration_s} s"
    return f"{head}\n\n{report.table(columns, rows)}"


def _plot(turns: Turns) -> Figure:
    colors = (report.GREY, report.BLUE, report.ORANGE, report.RED, report.NAVY)
    figure = report.plot(9, 3.8)
    axes = figure.subplots()
    names = [*_WORKERS, SERVICE]
    ratios = {
        name: [report.beside(one[BARE], one[name], _TOOK) for one in turns.values()]
        for name in names
    }
    report.bars(axes, ratios, dict(zip(names, colors, strict=True)))
    axes.axhline(1, color="#333333", linewidth=0.8)
    report.tidy(axes, turns, ylabel="speed beside bare faster-whisper")
    report.legend(figure, axes, columns=3)
    return figure
