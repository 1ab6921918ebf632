"""faster-whisper: our engine and our service beside the bare library.

`nox -s bench -- transcription`. The model has the sizes of OpenAI's `tiny` and says the same fifty
tokens in each window, so that every contestant does the same work; each is a process of its own.
In a round all have a turn, so that a ratio compares what ran within seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks import transcription_report
from benchmarks.servers import ROOT
from benchmarks.transcription_service import Service

CASES: Final = {
    "one window": (28, 1),
    "eight at once": (28, 8),
    "five minutes": (300, 1),
}
"""Seconds of sound, and recordings at once."""

BARE: Final = "faster-whisper"
OURS: Final = "Bentovox engine"
CONTESTANTS: Final = {
    BARE: "bare",
    OURS: "ours",
    "faster-whisper, a worker a core": "workers",
    "faster-whisper, its own batches": "batched",
}
SERVICE: Final = "Bentovox over HTTP"
TEXT: Final = (
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


class Process:
    """A contestant of `benchmarks.transcription_run`."""

    def __init__(self, python: str, kind: str, folder: Path) -> None:
        """Start it and wait until it has its model."""
        command = [python, "-m", "benchmarks.transcription_run", kind, str(folder)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ask()

    def turn(self, duration_s: int, count: int) -> dict[str, float]:
        """Return what a turn took."""
        turn: dict[str, float] = json.loads(self.ask(f"{duration_s} {count}"))
        return turn

    def guesses(self, count: int, beside: int) -> list[float]:
        """Return how long each of some guesses took, with recordings heard beside them."""
        took: list[float] = json.loads(self.ask(f"120 {beside} {count}"))
        return took

    def ask(self, line: str = "") -> str:
        """Return the answer to a line."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the process has no pipes")
        if line:
            stdin.write(f"{line}\n")
            stdin.flush()
        answer = stdout.readline()
        if not answer:
            raise RuntimeError(f"a contestant ended with {self._process.wait()}")
        return answer

    def stop(self) -> None:
        """End it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.terminate()
        self._process.wait()


def main(arguments: list[str]) -> int:
    """Measure all, and write the page and the plot."""
    parser = argparse.ArgumentParser(prog="nox -s bench -- transcription", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where the report goes")
    options = parser.parse_args(arguments)
    python = os.environ.get("STACK_PYTHON")
    if not python:
        sys.exit("STACK_PYTHON is not set: run `nox -s bench -- transcription`")
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work, "model")
        subprocess.run([python, "-c", _PREPARE, str(folder), TEXT], cwd=ROOT, check=True)
        running: dict[str, Any] = {}
        try:
            for name, kind in CONTESTANTS.items():
                print(f"starting {name}", flush=True)
                running[name] = Process(python, kind, folder)
            print(f"starting {SERVICE}", flush=True)
            running[SERVICE] = Service(python, folder)
            turns = _turns(running, options.rounds)
            ours = running[OURS]
            guesses = {
                "alone": ours.guesses(2 * options.rounds, 0),
                "beside eight recordings": ours.guesses(2 * options.rounds, 8),
            }
        finally:
            for contestant in running.values():
                contestant.stop()
    options.out.mkdir(parents=True, exist_ok=True)
    transcription_report.write(
        options.out, turns=turns, guesses=guesses, cases=CASES, bare=BARE, rounds=options.rounds
    )
    print((options.out / "benchmarks-transcription.md").read_text(encoding="utf-8"))
    return 0


def _turns(running: dict[str, Any], rounds: int) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Return each contestant's turns by case; a round that warms up is left out."""
    turns: dict[str, dict[str, list[dict[str, float]]]] = {}
    for case, (duration_s, count) in CASES.items():
        of_case = turns.setdefault(case, {})
        for number in range(rounds + 1):
            for name, contestant in running.items():
                turn = contestant.turn(duration_s, count)
                if number:
                    of_case.setdefault(name, []).append(turn)
                print(f"  {case}, round {number}, {name}: {turn['took_s']:.2f} s", flush=True)
    return turns
