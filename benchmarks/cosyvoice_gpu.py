"""CosyVoice at its full size on one GPU: our engine beside the bare upstream call.

The architecture is Fun-CosyVoice3-0.5B's; its weights are random and made here, and nothing is
downloaded. Left out: the gateway and HTTP, vLLM-Omni, TensorRT, real weights, and the real encoders
of recordings, whose work is done once for a voice.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import report
from benchmarks.cosyvoice import prepared
from benchmarks.cosyvoice_contestants import Peer, Setup, bare
from benchmarks.streams import Turn, continuity

_TEXT: Final = (
    "Early in the morning the harbour is so quiet that one hears the ropes of the boats and, far "
    "out, a bell."
)
_STREAMS: Final = (1, 4, 8, 16, 32)
_START_S: Final = 150.0
_TURN_S: Final = 60.0  # what a turn may take if nothing is known of it
_END_S: Final = 25.0
_LOGGED: Final = 1500  # letters of a log that are shown
_NEEDED: Final = (
    *("av", "conformer", "diffusers", "einops", "einx", "frozendict", "hyperpyyaml", "inflect"),
    *("kaldi_native_fbank", "kaldifst", "librosa", "loguru", "more_itertools", "omegaconf"),
    *("onnxruntime", "prometheus_client", "psutil", "regex", "ruamel", "safetensors", "scipy"),
    *("soundfile", "soxr", "tiktoken", "torch", "transformers", "typeguard", "wetext", "whisper"),
    "x_transformers",
)
_LACKING = """
import sys
from importlib.util import find_spec
print(*(name for name in sys.argv[1:] if find_spec(name) is None))
"""


@dataclass
class _Contestant:
    """One way to make the streams; turns and the GPU's load in percent by how many there are."""

    worker: Peer
    asked: dict[str, bool] = field(default_factory=dict)  # beside the texts
    turns: dict[int, list[Turn]] = field(default_factory=dict)
    busy: dict[int, list[float]] = field(default_factory=dict)

    def expected_s(self, streams: int) -> float:
        """Return what a turn takes: as the last one, or as one of fewer streams, for each; or 0."""
        known = max((count for count in self.turns if count <= streams), default=0)
        return self.turns[known][-1].wall_s * streams / known if known else 0.0


def main(arguments: list[str]) -> None:
    """Measure for as long as there is time, and write the page again and again."""
    began = time.monotonic()
    parser = report.parser("cosyvoice-gpu", __doc__, rounds=3)
    parser.add_argument("--minutes", type=float, default=8.0, help="to be done in (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="all of it with a tiny model")
    options = parser.parse_args(arguments)
    print(__doc__, flush=True)
    python = os.environ.get("COSYVOICE_PYTHON") or os.environ.get("STACK_PYTHON") or sys.executable
    gpu = _asked("name,driver_version")
    lacking = subprocess.check_output([python, "-c", _LACKING, *_NEEDED], text=True).split()
    if not gpu and not options.dry_run:
        lacking.append("a GPU that nvidia-smi knows")
    if lacking:
        sys.exit(f"not here: {', '.join(lacking)}; see docs/benchmarks-cosyvoice-gpu.md")
    with tempfile.TemporaryDirectory() as folder:
        setups, _, version = prepared(python, Path(folder), full=not options.dry_run)
        what = f"{report.machine()}. GPU: {gpu or 'none'}. Upstream's code: {version[:12]}."
        if options.dry_run:
            what = f"**A dry run with a tiny model, which says nothing of a real one.** {what}"
        print(f"{what} The model is made after {time.monotonic() - began:.0f} s", flush=True)
        race = _Race(setups[-1], began + 60 * options.minutes - _END_S)
        try:
            race.start()
            for number in range(1, options.rounds + 1):
                for streams in (1, 2) if options.dry_run else _STREAMS:
                    race.round(streams, number)
                    found = {"letters": len(_TEXT), "state": what, "table": race.table()}
                    report.write(options.out, "benchmarks-cosyvoice-gpu", None, **found)
        finally:
            race.stop()


def _asked(what: str) -> str:
    """Return what the driver says of the GPU, empty if there is none."""
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.check_output(command, text=True, timeout=10).partition("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return ""


class _Race:
    """Turns of everybody; who fails or hangs is out, and the others go on."""

    def __init__(self, setup: Setup, until: float) -> None:
        self._until = until
        self._lost: dict[Peer, str] = {}  # why they are out
        engine = "benchmarks.peers.cosyvoice_engine"
        ours, half = Peer("ours", setup, engine), Peer("ours-fp16", setup, engine, options=["fp16"])
        self._workers = (ours, half, bare(setup))
        self._contestants = {
            "Bentovox": _Contestant(ours),
            "Bentovox, fp16": _Contestant(half),
            "Bentovox, whole": _Contestant(ours, {"whole": True}),
            "bare upstream call": _Contestant(self._workers[-1]),
        }

    def start(self) -> None:
        """Start everybody, and let them speak once to get warm."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._start, self._workers))

    def _start(self, worker: Peer) -> None:
        began = time.monotonic()
        worker.patience_s = self._within(_START_S)
        try:
            worker.start()
            worker.turn([_TEXT], 0)
            print(f"  {worker.name}: warm after {time.monotonic() - began:.0f} s", flush=True)
        except Exception as error:  # noqa: BLE001  the others go on
            self._lose(worker, error)

    def round(self, streams: int, number: int) -> None:
        """Give everybody a turn who can make it in time."""
        for name, one in self._contestants.items():
            expected_s, lost = one.expected_s(streams), self._lost.get(one.worker)
            if lost or self._within(expected_s) < expected_s:
                print(f"  {name}, {streams} streams: {lost or 'no time'}", flush=True)
                continue
            one.worker.patience_s = self._within(max(_TURN_S, 3 * expected_s))
            try:
                turn = self._turn(one, streams, number)
            except Exception as error:  # noqa: BLE001  the others go on
                self._lose(one.worker, error)
                continue
            print(
                f"  {name}, {streams} streams: first audio {turn.first_ms:.0f} ms, "
                f"{turn.audio_per_s:.1f} s of audio a second, took {turn.wall_s:.1f} s",
                flush=True,
            )

    def _turn(self, one: _Contestant, streams: int, number: int) -> Turn:
        texts, busy = [_TEXT] * streams, one.busy.setdefault(streams, [])
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(one.worker.turn, texts, 100 * number, **one.asked)
            while wait([answer], timeout=0.2).not_done:
                busy += map(float, filter(str.isdecimal, [_asked("utilization.gpu")]))
        one.turns.setdefault(streams, []).append(answer.result())
        return answer.result()

    def _within(self, seconds: float) -> float:
        """Return that time, or what is left."""
        return max(0.1, min(seconds, self._until - time.monotonic()))

    def _lose(self, worker: Peer, error: Exception) -> None:
        print(f"  {worker.name} is out: {error}", flush=True)
        last = worker.log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
        self._lost[worker] = f"out; its log ends with: {last}"

    def stop(self) -> None:
        """End everybody, and show what they logged last."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(Peer.stop, self._workers))
        for worker in self._workers:
            logged = worker.log.read_text(encoding="utf-8", errors="replace")
            print(f"{worker.name} logged last:\n{logged[-_LOGGED:]}", flush=True)

    def table(self) -> str:
        """Return what was measured, and who is out."""
        columns = (
            *("what", "streams", "turns", "first audio, ms", "real-time factor", "continuous"),
            *("audio/s", "requests/s", "GPU busy, %"),
        )
        ones = self._contestants
        rows = [
            (name, streams, *_row(one.turns[streams], one.busy[streams]))
            for streams in sorted({count for one in ones.values() for count in one.turns})
            for name, one in ones.items()
            if streams in one.turns
        ]
        lost = [
            f"- {name} is {self._lost[one.worker]}"
            for name, one in ones.items()
            if one.worker in self._lost
        ]
        return "\n".join([report.table(columns, rows), "", *lost])


def _row(turns: Sequence[Turn], busy: Sequence[float]) -> tuple[object, ...]:
    return (
        len(turns),
        report.spread([turn.first_ms for turn in turns], 0),
        report.spread([turn.real_time_factor for turn in turns]),
        f"{continuity(turns):.0%}",
        report.spread([turn.audio_per_s for turn in turns], 1),
        report.spread([len(turn.streams) / turn.wall_s for turn in turns]),
        f"{statistics.mean(busy):.0f}" if busy else "unknown",
    )
