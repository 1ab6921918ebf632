"""One contestant of `benchmarks.transcription`, a process in the environment that is served.

Each line on its standard input asks for a turn, `28 8`: how many seconds of sound, and how many
recordings at once. Each line that it prints answers with what that took, as JSON. Every contestant
hears the same sounds with the same model, beam and language.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from services.transcription.engines.protocol import (
    SAMPLE_RATE_HZ,
    GuessRequest,
    TranscriptionRequest,
)
from services.transcription.engines.registry import create_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from services.audio.pcm import Samples

CORES = len(os.sched_getaffinity(0))
PIECE_S = 0.5


@dataclass(frozen=True)
class Turn:
    """One contestant's turn: how long it all took, and the first segment of each request."""

    took_s: float
    first_s: float
    segments: int


class Bare:
    """`WhisperModel.transcribe`, or the library's own batches, a thread for each recording."""

    def __init__(self, model: Any, *, is_batched: bool = False) -> None:
        from faster_whisper import BatchedInferencePipeline  # noqa: PLC0415  heavy

        self._pipeline: Callable[[], Any] = (
            (lambda: BatchedInferencePipeline(model)) if is_batched else (lambda: model)
        )
        self._options: dict[str, Any] = {"beam_size": 5, "language": "en"}
        if is_batched:
            # As it is meant to be used: whole windows, cut by the clock, times as bare has them.
            self._options |= {"batch_size": 8, "vad_filter": False, "without_timestamps": False}
        else:
            self._options |= {"condition_on_previous_text": False}

    def turn(self, sounds: list[Samples]) -> Turn:
        """Hear them all, begun together."""
        firsts: list[float] = []
        counts: list[int] = []

        def hear(sound: Samples) -> None:
            options = dict(self._options)
            if "batch_size" in options:
                ends = [*range(0, sound.size, 30 * SAMPLE_RATE_HZ), sound.size]
                options["clip_timestamps"] = [
                    {"start": begin / SAMPLE_RATE_HZ, "end": end / SAMPLE_RATE_HZ}
                    for begin, end in pairwise(ends)
                ]
            segments, _ = self._pipeline().transcribe(sound, **options)
            count = 0
            for _ in segments:
                if not count:
                    firsts.append(time.perf_counter() - began)
                count += 1
            counts.append(count)

        with ThreadPoolExecutor(len(sounds)) as pool:
            began = time.perf_counter()
            list(pool.map(hear, sounds))
            took_s = time.perf_counter() - began
        return Turn(took_s, max(firsts, default=took_s), sum(counts))


class Ours:
    """The engine in this process, on an event loop of its own."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.engine = create_engine("faster_whisper", model=str(folder), device="cpu")
        self._wait(self.engine.start())
        while not self.engine.ready:
            if self.engine.settled:
                raise SystemExit(self.engine.status)
            time.sleep(0.05)

    def turn(self, sounds: list[Samples]) -> Turn:
        """Hear them all, begun together."""
        return self._wait(self._turn(sounds))

    def guesses(self, sound: Samples, count: int, beside: list[Samples]) -> list[float]:
        """Return how long each guess took, with recordings heard beside them."""
        return self._wait(self._guesses(sound, count, beside))

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _turn(self, sounds: list[Samples]) -> Turn:
        began = time.perf_counter()
        heard = await asyncio.gather(*(self._hear(sound, began) for sound in sounds))
        took_s = time.perf_counter() - began
        return Turn(took_s, max(first for first, _ in heard), sum(count for _, count in heard))

    async def _hear(self, sound: Samples, began: float) -> tuple[float, int]:
        first_s, count = 0.0, 0
        request = TranscriptionRequest(_pieces(sound), language="en")
        async with aclosing(self.engine.transcribe(request)) as segments:
            async for _ in segments:
                first_s = first_s or time.perf_counter() - began
                count += 1
        return first_s, count

    async def _guesses(self, sound: Samples, count: int, beside: list[Samples]) -> list[float]:
        busy = [asyncio.ensure_future(self._repeat(one)) for one in beside]
        took = []
        await self.engine.guess(GuessRequest(sound, language="en"))
        for _ in range(count):
            began = time.perf_counter()
            await self.engine.guess(GuessRequest(sound, language="en"))
            took.append(time.perf_counter() - began)
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        return took

    async def _repeat(self, sound: Samples) -> None:
        while True:
            await self._hear(sound, 0.0)


def _pieces(sound: Samples) -> Iterator[Samples]:
    size = int(PIECE_S * SAMPLE_RATE_HZ)
    for begin in range(0, sound.size, size):
        yield sound[begin : begin + size]


def sounds(duration_s: float, count: int) -> list[Samples]:
    """Return noise, which costs a model as much as speech does."""
    rng = np.random.default_rng(0)
    size = int(duration_s * SAMPLE_RATE_HZ)
    return [(0.1 * rng.standard_normal(size)).astype(np.float32) for _ in range(count)]


CONTESTANTS: Final = {
    "ours": Ours,
    "bare": lambda folder: Bare(_model(folder, cpu_threads=CORES)),
    "workers": lambda folder: Bare(_model(folder, cpu_threads=1, num_workers=CORES)),
    "batched": lambda folder: Bare(_model(folder, cpu_threads=CORES), is_batched=True),
}


def _model(folder: Path, **options: int) -> Any:
    from faster_whisper import WhisperModel  # noqa: PLC0415  heavy

    return WhisperModel(str(folder), device="cpu", **options)


def main() -> None:
    """Take turns until nobody asks for more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("folder", type=Path, help="a model that CTranslate2 reads")
    options = parser.parse_args()
    contestant: Any = CONTESTANTS[options.contestant](options.folder)
    print("ready", flush=True)
    for line in sys.stdin:
        duration_s, count, *guesses = map(int, line.split())
        heard = sounds(duration_s, count)
        if guesses:
            answer: Any = contestant.guesses(sounds(3, 1)[0], guesses[0], heard)
        else:
            answer = vars(contestant.turn(heard))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
