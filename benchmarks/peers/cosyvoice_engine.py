"""Our engine without HTTP: `synthesise` in one process; asked and answers as `cosyvoice_bare`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import soundfile

from benchmarks.peers import turns
from services.speech.engines.protocol import SynthesisRequest, VoiceReference
from services.speech.engines.registry import create_engine


def main(model: str, recording: str, transcript: str) -> None:
    """Start the engine, and take turns until nobody asks for more."""
    replies = turns.replies()
    loop = asyncio.Runner()
    engine = create_engine("cosyvoice", model=model)
    loop.run(engine.start())
    samples, rate = soundfile.read(recording, dtype="float32")
    features = Path(tempfile.mkdtemp())
    voice = VoiceReference(samples, rate, text=transcript, id="bench", features=features)
    loop.run(engine.prepare(voice))

    async def speak(text: str, seed: int) -> list[tuple[float, float]]:
        began = time.perf_counter()
        request = SynthesisRequest(text, voice=None, reference=voice, seed=seed)
        return [
            (time.perf_counter() - began, frame.size / engine.sample_rate_hz)
            async for frame in engine.synthesise(request)
        ]

    async def turn(texts: list[str], first_seed: int) -> dict[str, Any]:
        began = time.perf_counter()
        seeds = range(first_seed, first_seed + len(texts))
        streams = await asyncio.gather(*map(speak, texts, seeds))
        return {"wall_s": time.perf_counter() - began, "streams": streams}

    turns.take(lambda asked: loop.run(turn(asked["texts"], asked["seed"])), replies)
    loop.run(engine.close())


if __name__ == "__main__":
    main(*sys.argv[1:])
