"""The vllm_omni engine with a GPU, vLLM-Omni and Fun-CosyVoice3's weights."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
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

SAID = "Good morning. This is how my voice sounds on an ordinary day."


def _lacking() -> str | None:
    """Return what is not there, None when all is."""
    if not Path("/dev/nvidiactl").exists():
        return "no NVIDIA GPU here: vLLM-Omni has no CPU platform"
    if shutil.which(_command()) is None:
        return f"{_command()} is not installed; VLLM_OMNI_COMMAND may name it"
    if not os.environ.get("VLLM_OMNI_MODEL"):
        return "VLLM_OMNI_MODEL names no directory with Fun-CosyVoice3's weights"
    return None


def _command() -> str:
    return os.environ.get("VLLM_OMNI_COMMAND", "vllm-omni")


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


def _kill_a_stage(engine: VllmOmniEngine) -> None:
    """Kill a process of the server's that holds GPU memory: one of its stages."""
    process = engine._keeper._process
    assert process is not None
    out = subprocess.run(
        ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=True,
    )
    holders = [int(line) for line in out.stdout.split()]
    ours = [pid for pid in holders if os.getsid(pid) == process.pid]
    os.kill(ours[-1], signal.SIGKILL)


async def test_the_real_server_clones_streams_is_hung_up_on_and_comes_back() -> None:
    """One test for one start, which takes minutes."""
    engine = VllmOmniEngine(command=[_command()], model=os.environ["VLLM_OMNI_MODEL"])
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
        assert engine.active == 0

        _kill_a_stage(engine)
        async with asyncio.timeout(60):
            while engine.ready:  # noqa: ASYNC110  the engine has no event for this
                await asyncio.sleep(0.1)
        async with asyncio.timeout(900):
            while not engine.ready:  # noqa: ASYNC110
                await asyncio.sleep(0.5)
        assert (await _spoken(engine, request))[0].size
    finally:
        await engine.close()
