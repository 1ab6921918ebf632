"""Drives the vLLM-Omni stand-in, and decodes what it says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from services.speech.engines.protocol import SynthesisRequest, VoiceReference
from services.speech.engines.vllm_omni import engine as omni
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

    from services.audio.pcm import Samples
    from services.speech.engines.protocol import SpeechEngine

STAND_IN = Path(__file__).with_name("vllm_omni_server.py")
RATE_HZ = 24_000
CHARACTER = RATE_HZ // 10


def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at servers more often."""
    monkeypatch.setattr(omni, "PROBE_S", 0.2)


def reference(length_s: float = 2.0, voice_id: str | None = None, **more: Any) -> VoiceReference:
    samples = np.full(int(16_000 * length_s), 0.25, dtype=np.float32)
    return replace(VoiceReference(samples, 16_000, "Good morning.", voice_id), **more)


def asked(text: Any = "abc", *, ref: VoiceReference | None = None, **more: Any) -> SynthesisRequest:
    return SynthesisRequest(text, None, reference=ref or reference(), **more)


def heard(samples: Samples) -> str:
    """Return the letters whose tones are in `samples`: FakeEngine's, a tenth of a second each."""
    letters = ""
    for begin in range(0, samples.size - CHARACTER + 1, CHARACTER):
        spectrum = np.abs(np.fft.rfft(samples[begin : begin + CHARACTER]))
        pitch = round((float(spectrum.argmax()) * 10 - 200) / 10)
        letters += chr(pitch + 64 + (32 if pitch < 32 else 0)) if pitch != 32 else " "
    return letters.lower()


async def spoken(engine: SpeechEngine, request: SynthesisRequest) -> Samples:
    async with aclosing(engine.synthesise(request)) as frames:
        return np.concatenate([frame async for frame in frames])


async def until(check: Callable[[], Any], within_s: float, what: str) -> float:
    began = time.monotonic()
    while not check():
        assert time.monotonic() - began < within_s, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


class StandIn:
    """The stand-in and its switches."""

    def __init__(self, url: str) -> None:
        self.url = url

    def tell(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.url}/stand-in", timeout=5).json())

    def healthy(self) -> bool:
        return httpx.get(f"{self.url}/health", timeout=5).is_success

    def delete_voice(self, name: str) -> None:
        httpx.delete(f"{self.url}/v1/audio/voices/{name}", timeout=5).raise_for_status()

    def switch(self, **switches: Any) -> dict[str, Any]:
        return dict(httpx.post(f"{self.url}/stand-in", json=switches, timeout=5).json())


@contextlib.contextmanager
def server_elsewhere(home: Path, port: int = 0) -> Iterator[str]:
    """Run a server; give its URL."""
    port = port or free_port()
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                str(STAND_IN),
                "serve",
                "m",
                "--omni",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ],
            env={**os.environ, "SPEAKER_SAMPLES_DIR": str(home / "speakers")},
            stdout=log,
            stderr=log,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 20
        while True:
            assert process.poll() is None, (home / "log").read_text(encoding="utf-8")
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{url}/health")
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.wait(10)
