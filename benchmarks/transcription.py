"""faster-whisper: our engine and our service beside the bare library.

The model has the sizes of OpenAI's `tiny` and says the same fifty tokens in each window, so that
every contestant does the same work; each is a process of its own.
`python -m benchmarks.transcription NAME FOLDER` is one of them, a worker in the environment that is
served. It is asked `{"duration_s": 28, "count": 8}`: how long a sound, and how many at once. Each
hears the same sounds with the same model, beam and language. With `"guesses": 10` our engine
guesses so often beside them.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from io import BytesIO
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import httpx
import numpy as np
import soundfile

from benchmarks import report
from benchmarks.contestants import ROOT, Service, Worker, in_turn, python, running
from benchmarks.peers import turns as replying
from benchmarks.streams import at_once
from services.engines import create
from services.transcription.engines.protocol import (
    SAMPLE_RATE_HZ,
    GuessRequest,
    TranscriptionRequest,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from services.audio.pcm import Samples

    Turn = Mapping[str, Any]
    Turns = Mapping[str, Mapping[str, Sequence[Turn]]]
    """By case, and by contestant."""

_TOOK: Final = itemgetter("wall_s")
BARE, OURS, SERVICE = "faster-whisper", "Bentovox engine", "Bentovox over HTTP"
_CASES: Final = {"one window": (28, 1), "eight at once": (28, 8), "five minutes": (300, 1)}
"""Seconds of sound, and recordings at once."""

_TEXT: Final = (
    " and so the story goes on, as it was told to me by one who had been there and had seen it all"
    " with his own eyes, on a cold day in the north, long before any of us was born, when ships"
    " still had sails"
)
_CORES: Final = len(os.sched_getaffinity(0))
_PIECE: Final = SAMPLE_RATE_HZ // 2
_WINDOW: Final = 30 * SAMPLE_RATE_HZ
_GUESSED_S: Final = 3
_PREPARE: Final = """
import sys
from pathlib import Path
from tests.parrot import TINY, parrot
parrot(Path(sys.argv[1]), sys.argv[2], shape=TINY, end_s=27.0)
"""


class OurService(Service):
    """The transcription role, asked by many at once."""

    def __init__(self, stack_python: str, folder: str) -> None:
        super().__init__(
            "transcription",
            stack_python,
            BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL=folder,
            BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__DEVICE="cpu",
            # The profile's int8 would be another model than the bare library's.
            BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__COMPUTE_TYPE="default",
        )

    def ask(self, asked: Mapping[str, int]) -> Turn:
        """Return a turn, as workers do."""
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
    sound = BytesIO()
    noise = _sounds(duration_s, 1)[0]
    soundfile.write(sound, noise, SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    return sound.getvalue()


def main(arguments: list[str]) -> None:
    options = report.parser("transcription", __doc__, rounds=5).parse_args(arguments)
    stack_python = python()
    with tempfile.TemporaryDirectory() as work:
        folder = f"{work}/model"
        subprocess.run([stack_python, "-c", _PREPARE, folder, _TEXT], cwd=ROOT, check=True)
        worker = [stack_python, "-m", "benchmarks.transcription"]
        contestants: dict[str, Any] = {
            name: Worker(name, [*worker, name, folder]) for name in _WORKERS
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


class Bare:
    """`WhisperModel.transcribe`, or the library's own batches, a thread for each recording."""

    def __init__(self, folder: str, *, batched: bool = False, **options: int) -> None:
        from faster_whisper import BatchedInferencePipeline, WhisperModel  # noqa: PLC0415  heavy

        model = WhisperModel(folder, device="cpu", **options)
        self._batched = batched
        self._pipeline = (lambda: BatchedInferencePipeline(model)) if batched else (lambda: model)

    def turn(self, sounds: list[Samples]) -> Any:
        """Hear them all, begun together."""
        return at_once(self._hear, sounds)

    def _hear(self, sound: Samples) -> Iterator[float]:
        options: dict[str, Any] = {"beam_size": 5, "language": "en"}
        if self._batched:
            # As it is meant to be used: whole windows, cut by the clock, times as bare has them.
            ends = [at / SAMPLE_RATE_HZ for at in (*range(0, sound.size, _WINDOW), sound.size)]
            windows = [{"start": begin, "end": end} for begin, end in pairwise(ends)]
            options |= {"batch_size": 8, "vad_filter": False, "without_timestamps": False}
            options["clip_timestamps"] = windows
        else:
            options["condition_on_previous_text"] = False
        segments, _ = self._pipeline().transcribe(sound, **options)
        for _ in segments:
            yield 0.0  # text has no length


class Ours:
    """The engine in this process."""

    def __init__(self, folder: str) -> None:
        self._loop = asyncio.Runner()
        self._engine = create("transcription", "faster_whisper", model=folder, device="cpu")
        self._loop.run(self._start())

    async def _start(self) -> None:
        await self._engine.start()
        while not self._engine.ready:
            if self._engine.settled:
                raise SystemExit(self._engine.status)
            await asyncio.sleep(0.05)

    def turn(self, sounds: list[Samples]) -> Any:
        """Hear them all, begun together."""
        return self._loop.run(self._turn(sounds))

    def guess(self, count: int, sounds: list[Samples]) -> Any:
        """Return how long each of so many guesses took beside the sounds."""
        return self._loop.run(self._guesses(count, sounds))

    async def _turn(self, sounds: list[Samples]) -> dict[str, Any]:
        began = time.perf_counter()
        streams = await asyncio.gather(*map(self._hear, sounds))
        return {"wall_s": time.perf_counter() - began, "streams": streams}

    async def _hear(self, sound: Samples) -> list[tuple[float, float]]:
        began = time.perf_counter()
        pieces = (sound[begin : begin + _PIECE] for begin in range(0, sound.size, _PIECE))
        request = TranscriptionRequest(pieces, language="en")
        async with aclosing(self._engine.transcribe(request)) as segments:
            return [(time.perf_counter() - began, 0.0) async for _ in segments]

    async def _guesses(self, count: int, beside: list[Samples]) -> list[float]:
        sound = _sounds(_GUESSED_S, 1)[0]
        busy = [asyncio.ensure_future(self._repeat(one)) for one in beside]
        took_s = []
        for _ in range(count + 1):
            began = time.perf_counter()
            await self._engine.guess(GuessRequest(sound, language="en"))
            took_s.append(time.perf_counter() - began)
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        return took_s[1:]  # the first one warms up

    async def _repeat(self, sound: Samples) -> None:
        while True:
            await self._hear(sound)


def _sounds(duration_s: int, count: int) -> list[Samples]:
    """Return noise, which costs a model as much as speech does."""
    rng = np.random.default_rng(0)
    size = duration_s * SAMPLE_RATE_HZ
    return [(0.1 * rng.standard_normal(size)).astype(np.float32) for _ in range(count)]


_WORKERS: Final[dict[str, Callable[[str], Any]]] = {
    BARE: partial(Bare, cpu_threads=_CORES),
    OURS: Ours,
    "faster-whisper, a worker a core": partial(Bare, cpu_threads=1, num_workers=_CORES),
    "faster-whisper, its own batches": partial(Bare, batched=True, cpu_threads=_CORES),
}


def work(name: str, folder: str) -> None:
    """Be a contestant, which takes turns until nobody asks for more."""
    replies = replying.replies()
    contestant: Any = _WORKERS[name](folder)

    def turn(asked: dict[str, int]) -> Any:
        sounds = _sounds(asked["duration_s"], asked["count"])
        guesses = asked.get("guesses")
        return contestant.guess(guesses, sounds) if guesses else contestant.turn(sounds)

    replying.take(turn, replies)


if __name__ == "__main__":
    work(*sys.argv[1:])
