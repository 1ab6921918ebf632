"""Our engine without HTTP: `CosyVoiceEngine.synthesise` in one process, a task a stream.

The voice is a registered one, so that its features are computed once. It is asked
`{"texts": [...], "seed": 1, "whole": false}` and answers with a turn's streams.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import tempfile
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import soundfile

from benchmarks.peers import turns
from services.speech.engines.cosyvoice.engine import CosyVoiceEngine
from services.speech.engines.protocol import SynthesisRequest, VoiceReference


def main(model: str, recording: str, transcript: str, *options: str) -> None:
    """Load, say so, and answer until standard input ends; `fp16` is an option."""
    replies = turns.replies()
    logging.basicConfig(level=logging.INFO)  # it says how many streams it believes to hold
    samples, rate_hz = soundfile.read(recording, dtype="float32")
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory() as features:
        engine = CosyVoiceEngine(model=model, fp16="fp16" in options)
        runner.run(engine.start())
        voice = VoiceReference(samples, rate_hz, transcript, "bench", Path(features))
        runner.run(engine.prepare(voice))
        turns.take(lambda asked: runner.run(_turn(engine, voice, asked)), replies)
        runner.run(engine.close())


async def _turn(
    engine: CosyVoiceEngine, voice: VoiceReference, asked: dict[str, Any]
) -> dict[str, Any]:
    async def listen(text: str, seed: int) -> list[tuple[float, float]]:
        whole = asked.get("whole", False)
        request = SynthesisRequest(text, None, seed=seed, reference=voice, one_pass=whole)
        began, rate_hz = time.perf_counter(), engine.sample_rate_hz
        async with aclosing(engine.synthesise(request)) as frames:
            return [(time.perf_counter() - began, frame.size / rate_hz) async for frame in frames]

    began = time.perf_counter()
    streams = await asyncio.gather(*map(listen, asked["texts"], itertools.count(asked["seed"])))
    return {"wall_s": time.perf_counter() - began, "streams": streams}


if __name__ == "__main__":
    main(*sys.argv[1:])
