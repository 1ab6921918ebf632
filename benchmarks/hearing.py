"""Pocketsphinx beside Whisper's smallest model: how many words go wrong, and how fast."""

from __future__ import annotations

import json
import subprocess
import tempfile

from benchmarks import report
from benchmarks.contestants import ROOT, python

_SPEAKERS = {"espeak": "espeak-ng, three voices", "kokoro": "Kokoro, two Japanese voices"}


def main(arguments: list[str]) -> None:
    """Measure, and write the page."""
    parser = report.parser("hearing", __doc__, rounds=1)
    parser.add_argument("--models", help="folder in which models are kept (default: for now)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as work:
        command = [python(), "-m", "benchmarks.peers.hearing_worker", options.models or work]
        said = subprocess.check_output(command, cwd=ROOT, text=True)
    heard = json.loads(said.splitlines()[-1])
    rows = (
        (
            *(name, _SPEAKERS[speaker], one["words"]),
            *(f"{one['wrong'] / one['words']:.0%}", f"{one['factor']:.2f}"),
        )
        for name, by_speaker in heard.items()
        for speaker, one in by_speaker.items()
    )
    columns = ("", "speech by", "words", "word errors", "real-time factor")
    report.write(options.out, "benchmarks-hearing", None, table=report.table(columns, rows))
