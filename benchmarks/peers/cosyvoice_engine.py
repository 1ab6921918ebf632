"""Our engine without HTTP: `synthesise` in one process; lines in and out as `cosyvoice_bare`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import soundfile

from benchmarks.peers.cosyvoice_code import reply_stream
from services.speech.engines.protocol import SynthesisRequest, VoiceReference
from services.speech.engines.registry import create_engine


async def main(model: str, root: str, recording: str, transcript: str) -> None:
    """Start the engine, say so, and answer until standard input ends."""
    replies = reply_stream()
    engine = create_engine("cosyvoice", model=model, code=root)
    await engine.start()
    samples, rate = soundfile.read(recording, dtype="float32")
    voice = VoiceReference(samples, rate, text=transcript, id="bench")
    await engine.prepare(voice)
    print(json.dumps({"ready": True}), file=replies, flush=True)

    async def speak(text: str, seed: int) -> list[tuple[float, float]]:
        began = time.perf_counter()
        request = SynthesisRequest(text, voice=None, reference=voice, seed=seed)
        return [
            (time.perf_counter() - began, frame.size / engine.sample_rate_hz)
            async for frame in engine.synthesise(request)
        ]

    while line := await asyncio.to_thread(sys.stdin.readline):
        asked: dict[str, Any] = json.loads(line)
        began = time.perf_counter()
        seeds = range(asked["seed"], asked["seed"] + len(asked["texts"]))
        streams = await asyncio.gather(*map(speak, asked["texts"], seeds))
        turn = {"wall_s": time.perf_counter() - began, "streams": streams}
        print(json.dumps(turn), file=replies, flush=True)
    await engine.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
