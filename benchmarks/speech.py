"""Speech: time to the first byte of the service, beside the bare engine's first frame."""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.servers import ROOT

if TYPE_CHECKING:
    from benchmarks.servers import Server

TEXT = "Bentovox serves chat and speech on your own machine. This is the second sentence."
FORMATS = ("pcm", "wav", "mp3", "opus", "aac", "flac")
_TIMES = 40

_BARE = """
import asyncio, statistics, sys, time
from services.speech.engines.registry import create_engine
from services.speech.engines.protocol import SynthesisRequest
text, times = sys.argv[1], int(sys.argv[2])
async def main():
    engine = create_engine("espeak")
    await engine.start()
    seen = []
    for _ in range(times):
        began = time.perf_counter()
        frames = engine.synthesise(SynthesisRequest(text=text, voice="alloy", speed=1.0))
        await anext(frames)
        seen.append((time.perf_counter() - began) * 1000)
        await frames.aclose()
    await engine.close()
    print(statistics.median(seen))
asyncio.run(main())
"""


@dataclass(frozen=True)
class First:
    """Median milliseconds to the first frame or byte."""

    what: str
    first_ms: float


def measure(stack_python: str, stack: Server) -> list[First]:
    """Return the bare engine first, then each format through the whole front door."""
    bare = subprocess.run(
        [stack_python, "-c", _BARE, TEXT, str(_TIMES)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = [First("bare engine, first frame", float(bare.stdout))]
    return found + [
        First(f"front door, {name}", _first_byte_ms(stack.port, name)) for name in FORMATS
    ]


def _first_byte_ms(port: int, audio_format: str) -> float:
    body = json.dumps(
        {"model": "tts-1", "voice": "alloy", "input": TEXT, "response_format": audio_format}
    )
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    seen = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        connection.request("POST", "/v1/audio/speech", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read(1)
        seen.append((time.perf_counter() - began) * 1000)
        answer.read()
    connection.close()
    return statistics.median(seen)
