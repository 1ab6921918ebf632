"""What `benchmarks.transcription` measures, in the environment that is served: prints JSON.

Every contestant hears the same sounds with the same model, beam and language. In each round all
have a turn, so that a ratio compares what ran within seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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


class Contestant(Protocol):
    """Hears some recordings at once."""

    name: str

    def turn(self, sounds: list[Samples]) -> Turn:
        """Hear them all, each from its own thread or task, begun together."""
        ...


class Bare:
    """`WhisperModel.transcribe`, or the library's own batches, a thread for each recording."""

    def __init__(self, name: str, model: Any, *, is_batched: bool = False) -> None:
        from faster_whisper import BatchedInferencePipeline  # noqa: PLC0415  heavy

        self.name = name
        self._model = model
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
        firsts: list[float] = []
        counts: list[int] = []

        def hear(sound: Samples) -> None:
            options = dict(self._options)
            if "batch_size" in options:
                ends = [*range(0, sound.size, 30 * SAMPLE_RATE_HZ), sound.size]
                options["clip_timestamps"] = [
                    {"start": begin / SAMPLE_RATE_HZ, "end": end / SAMPLE_RATE_HZ}
                    for begin, end in zip(ends, ends[1:], strict=False)
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

    name = "Bentovox engine"

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
        return self._wait(self._turn(sounds))

    def guesses(self, sound: Samples, count: int, beside: list[Samples]) -> list[float]:
        """Return how long each guess took, with recordings heard beside them."""
        return self._wait(self._guesses(sound, count, beside))

    def close(self) -> None:
        self._wait(self.engine.close())
        self._loop.call_soon_threadsafe(self._loop.stop)

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


def main() -> None:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a model that CTranslate2 reads")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    from faster_whisper import WhisperModel  # noqa: PLC0415  heavy

    def bare(**more: Any) -> Any:
        return WhisperModel(str(options.folder), device="cpu", **more)

    one = bare(cpu_threads=CORES)
    ours = Ours(options.folder)
    contestants: list[Contestant] = [
        Bare("faster-whisper", one),
        ours,
        Bare("faster-whisper, a worker a core", bare(cpu_threads=1, num_workers=CORES)),
        Bare("faster-whisper, its own batches", one, is_batched=True),
    ]
    cases = {
        "one window": sounds(28, 1),
        "eight at once": sounds(28, 8),
        "five minutes": sounds(300, 1),
    }
    turns: dict[str, dict[str, list[dict[str, float]]]] = {}
    for case, heard in cases.items():
        mine = turns.setdefault(case, {})
        for number in range(options.rounds + 1):
            for contestant in contestants:
                turn = contestant.turn(heard)
                if number:  # the first round warms up
                    mine.setdefault(contestant.name, []).append(vars(turn))
    guesses = {
        "alone": ours.guesses(sounds(3, 1)[0], 2 * options.rounds, []),
        "beside eight recordings": ours.guesses(
            sounds(3, 1)[0], 2 * options.rounds, sounds(120, 8)
        ),
    }
    ours.close()
    print(json.dumps({"cores": CORES, "turns": turns, "guesses": guesses}))


if __name__ == "__main__":
    main()
