"""Speech: time to the first byte of the service, beside the bare engine's first frame."""

from __future__ import annotations

import http.client
import json
import statistics
import time

from benchmarks import report
from benchmarks.contestants import told

_TEXT = "Bentovox serves chat and speech on your own machine. This is the second sentence."
_FORMATS = ("pcm", "wav", "mp3", "opus", "aac", "flac")
_TIMES = 40

_BARE = """
import asyncio, statistics, sys, time
from services.engines import create
from services.speech.engines.protocol import SynthesisRequest
text, times = sys.argv[1], int(sys.argv[2])
async def main():
    engine = create("speech", "espeak")
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


def measure(python: str, port: int) -> dict[str, float]:
    """Return milliseconds to the first frame of the bare engine, and to each format's first byte.

    `port` is the front door's.
    """
    bare_ms = told(python, "-c", _BARE, _TEXT, str(_TIMES))
    ours = {f"front door, {name}": _first_byte_ms(port, name) for name in _FORMATS}
    return {"bare engine, first frame": bare_ms, **ours}


def _first_byte_ms(port: int, name: str) -> float:
    said = {"model": "tts-1", "voice": "alloy", "input": _TEXT, "response_format": name}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Content-Type": "application/json"}
    seen = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        connection.request("POST", "/v1/audio/speech", json.dumps(said), headers)
        answer = connection.getresponse()
        answer.read(1)
        seen.append((time.perf_counter() - began) * 1000)
        answer.read()
    connection.close()
    return statistics.median(seen)


def table(firsts_ms: dict[str, float]) -> str:
    """Return what was measured as a table."""
    bare, *_ = firsts_ms.values()
    rows = ((what, f"{ms:.2f}", f"{ms - bare:+.2f}") for what, ms in firsts_ms.items())
    return report.table(("what", "median, ms", "added, ms"), rows)
