"""kokoro-onnx called bare: sentence by sentence in one process, a thread a stream.

It is asked `{"sentences": [...], "count": 2}` and answers with a turn's streams and its memory.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import psutil
from kokoro_onnx import Kokoro

from benchmarks.peers import turns
from benchmarks.streams import at_once

if TYPE_CHECKING:
    from collections.abc import Iterator


def main(folder: str, voice: str) -> None:
    """Load, say so, and answer until standard input ends."""
    replies = turns.replies()
    speaker = Kokoro(f"{folder}/model.onnx", f"{folder}/voices.npz")

    def speak(sentences: list[str]) -> Iterator[float]:
        for sentence in sentences:
            samples, rate_hz = speaker.create(sentence, voice, lang="en-us")
            yield len(samples) / rate_hz

    def turn(asked: dict[str, Any]) -> dict[str, Any]:
        made = at_once(speak, [asked["sentences"]] * asked["count"])
        return {**made, "bytes": psutil.Process().memory_info().rss}

    turns.take(turn, replies)


if __name__ == "__main__":
    main(*sys.argv[1:])
