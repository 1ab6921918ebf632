"""One contestant of `benchmarks.transcription`, a worker in the environment that is served.

It is asked `{"duration_s": 28, "count": 8}`: how long a sound, and how many at once. Every
contestant hears the same sounds with the same model, beam and language.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import aclosing
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.peers import turns
from benchmarks.streams import at_once
from services.engines import create
from services.transcription.engines.protocol import (
    SAMPLE_RATE_HZ,
    GuessRequest,
    TranscriptionRequest,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.audio.pcm import Samples

_CORES: Final = len(os.sched_getaffinity(0))
_PIECE: Final = SAMPLE_RATE_HZ // 2
_WINDOW: Final = 30 * SAMPLE_RATE_HZ
_GUESSED_S: Final = 3


class Bare:
    """`WhisperModel.transcribe`, or the library's own batches, a thread for each recording."""

    def __init__(self, folder: str, *, batched: bool = False, **options: int) -> None:
        """Load the model; `options` are the library's."""
        from faster_whisper import BatchedInferencePipeline, WhisperModel  # noqa: PLC0415  heavy

        model = WhisperModel(folder, device="cpu", **options)
        self._batched = batched
        self._pipeline = (lambda: BatchedInferencePipeline(model)) if batched else (lambda: model)

    def turn(self, sounds: list[Samples]) -> dict[str, Any]:
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
        """Start it and wait until it has its model."""
        self._loop = asyncio.Runner()
        self._engine = create("transcription", "faster_whisper", model=folder, device="cpu")
        self._loop.run(self._start())

    async def _start(self) -> None:
        await self._engine.start()
        while not self._engine.ready:
            if self._engine.settled:
                raise SystemExit(self._engine.status)
            await asyncio.sleep(0.05)

    def turn(self, sounds: list[Samples]) -> dict[str, Any]:
        """Hear them all, begun together."""
        return self._loop.run(self._turn(sounds))

    def guesses(self, count: int, beside: list[Samples]) -> list[float]:
        """Return how long each guess took, with recordings heard beside them."""
        return self._loop.run(self._guesses(_sounds(_GUESSED_S, 1)[0], count, beside))

    async def _turn(self, sounds: list[Samples]) -> dict[str, Any]:
        began = time.perf_counter()
        streams = await asyncio.gather(*map(self._hear, sounds))
        return {"wall_s": time.perf_counter() - began, "streams": streams}

    async def _hear(self, sound: Samples) -> list[tuple[float, float]]:
        began = time.perf_counter()
        request = TranscriptionRequest(_pieces(sound), language="en")
        async with aclosing(self._engine.transcribe(request)) as segments:
            return [
                (time.perf_counter() - began, one.end_s - one.start_s) async for one in segments
            ]

    async def _guesses(self, sound: Samples, count: int, beside: list[Samples]) -> list[float]:
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


def _pieces(sound: Samples) -> Iterator[Samples]:
    for begin in range(0, sound.size, _PIECE):
        yield sound[begin : begin + _PIECE]


def _sounds(duration_s: int, count: int) -> list[Samples]:
    """Return noise, which costs a model as much as speech does."""
    rng = np.random.default_rng(0)
    size = duration_s * SAMPLE_RATE_HZ
    return [(0.1 * rng.standard_normal(size)).astype(np.float32) for _ in range(count)]


CONTESTANTS: Final = {
    "ours": Ours,
    "bare": lambda folder: Bare(folder, cpu_threads=_CORES),
    "workers": lambda folder: Bare(folder, cpu_threads=1, num_workers=_CORES),
    "batched": lambda folder: Bare(folder, batched=True, cpu_threads=_CORES),
}


def main(kind: str, folder: str) -> None:
    """Take turns until nobody asks for more."""
    replies = turns.replies()
    contestant: Any = CONTESTANTS[kind](folder)

    def turn(asked: dict[str, int]) -> Any:
        sounds = _sounds(asked["duration_s"], asked["count"])
        if "guesses" in asked:
            return contestant.guesses(asked["guesses"], sounds)
        return contestant.turn(sounds)

    turns.take(turn, replies)


if __name__ == "__main__":
    main(*sys.argv[1:])
