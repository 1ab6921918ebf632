"""kokoro-onnx called bare: sentence by sentence in one process, a thread a stream.

It is asked `{"sentences": [...], "count": 2}` and answers with a turn's streams and its memory.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
from kokoro_onnx import Kokoro

from benchmarks.peers import turns


def main(folder: str, voice: str) -> None:
    """Load, say so, and answer until standard input ends."""
    replies = turns.replies()
    speaker = Kokoro(f"{folder}/model.onnx", f"{folder}/voices.npz")

    def speak(sentences: list[str]) -> list[tuple[float, float]]:
        began = time.perf_counter()
        arrivals = []
        for sentence in sentences:
            samples, rate_hz = speaker.create(sentence, voice, lang="en-us")
            arrivals.append((time.perf_counter() - began, len(samples) / rate_hz))
        return arrivals

    def turn(asked: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        with ThreadPoolExecutor(asked["count"]) as pool:
            streams = list(pool.map(speak, [asked["sentences"]] * asked["count"]))
        wall_s = time.perf_counter() - began
        return {"wall_s": wall_s, "streams": streams, "bytes": psutil.Process().memory_info().rss}

    turns.take(turn, replies)


if __name__ == "__main__":
    main(*sys.argv[1:])
