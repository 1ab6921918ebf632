"""The vllm_omni engine with a GPU, vLLM-Omni and Fun-CosyVoice3's weights."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from services.audio.resample import Resampler
from services.speech.engines.protocol import SynthesisRequest, VoiceReference
from services.speech.engines.vllm_omni.engine import VllmOmniEngine
from tests.hearing import HEARING_RATE_HZ, four_digits_heard

if TYPE_CHECKING:
    from services.audio.pcm import Samples

URL = os.environ.get("VLLM_OMNI_URL", "")
SAID = "Good morning. This is how my voice sounds on an ordinary day."


def _lacking() -> str | None:
    """Return what is not there, None when all is."""
    if not Path("/dev/nvidiactl").exists():
        return "no NVIDIA GPU here: vLLM-Omni has no CPU platform"
    if not URL:
        return "VLLM_OMNI_URL names no vLLM-Omni server on this machine"
    return None


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(_lacking() is not None, reason=str(_lacking())),
]


async def _recording() -> VoiceReference:
    """Return a sentence spoken by espeak-ng: a voice that nobody has to consent to."""
    pytest.importorskip("espeakng_loader", reason="the espeak extra is not installed")
    from services.speech.engines.espeak.engine import EspeakEngine  # noqa: PLC0415  after the skip

    espeak = EspeakEngine()
    await espeak.start()
    async with aclosing(espeak.synthesise(SynthesisRequest(SAID, "en-us"))) as frames:
        samples = np.concatenate([frame async for frame in frames])
    await espeak.close()
    return VoiceReference(samples, espeak.sample_rate_hz, SAID, id="espeak")


async def _spoken(engine: VllmOmniEngine, request: SynthesisRequest) -> tuple[Samples, float]:
    """Return what is said and after how many seconds it began."""
    began = time.monotonic()
    async with aclosing(engine.synthesise(request)) as frames:
        parts = [await anext(frames)]
        first_s = time.monotonic() - began
        parts += [frame async for frame in frames]
    return np.concatenate(parts), first_s


async def test_the_real_server_clones_streams_and_is_hung_up_on() -> None:
    engine = VllmOmniEngine(url=URL)
    await engine.start()
    try:
        reference = await _recording()
        await engine.prepare(reference)
        request = SynthesisRequest("four seven two nine", None, reference=reference)
        said, first_s = await _spoken(engine, request)
        resampler = Resampler(engine.sample_rate_hz, HEARING_RATE_HZ)
        heard = np.concatenate([resampler.feed(said), resampler.finish()])
        assert four_digits_heard(heard) == "four seven two nine"
        assert first_s < 5

        together = await asyncio.gather(*(_spoken(engine, request) for _ in range(4)))
        assert all(samples.size > engine.sample_rate_hz // 2 for samples, _ in together)

        frames = engine.synthesise(SynthesisRequest(SAID * 4, None, reference=reference))
        await anext(frames)
        began = time.monotonic()
        await frames.aclose()
        assert time.monotonic() - began < 0.5
        assert not engine._work
    finally:
        await engine.close()
