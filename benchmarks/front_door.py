"""The front door and its peers: chat, speech, one hop, and what the stack takes."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from pathlib import Path

from benchmarks import chat, report
from benchmarks.contestants import python, running, told

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


def main(arguments: list[str]) -> None:
    """Start all servers, measure, stop them and write the report."""
    options = report.parser("", __doc__, rounds=5).parse_args(arguments)
    stack_python = python()
    servers = chat.servers(stack_python)
    stack = next(server for server in servers if server.name == chat.STACK)
    with running(*servers):
        lines = chat.measure(servers, options.rounds)
        memory = [
            (f"memory of the stack's {name}, after the load", process.memory_info().rss)
            for name, process in stack.named()
        ]
        firsts_ms = {
            "bare engine, first frame": told(stack_python, "-c", _BARE, _TEXT, str(_TIMES))
        }
        firsts_ms |= {f"front door, {one}": _first_byte_ms(stack.port, one) for one in _FORMATS}
    files = (path.lstat() for path in Path(stack_python).parents[1].rglob("*") if path.is_file())
    sizes = [*memory, ("size of the installed environment", sum(one.st_size for one in files))]
    report.write(
        options.out,
        "benchmarks",
        chat.plot(lines),
        rounds=options.rounds,
        chat=chat.table(lines),
        aims=chat.aims(lines),
        speech=_speech(firsts_ms),
        relay=_relays(told(stack_python, "-m", "benchmarks.relay")),
        resources=report.table(
            ("what", "figure"),
            [
                *((f"{server.name} ready after", f"{server.ready_s:.1f} s") for server in servers),
                *((what, f"{size / (1 << 20):.0f} MiB") for what, size in sizes),
            ],
        ),
    )


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


def _speech(firsts_ms: dict[str, float]) -> str:
    bare, *_ = firsts_ms.values()
    rows = ((what, f"{ms:.2f}", f"{ms - bare:+.2f}") for what, ms in firsts_ms.items())
    return report.table(("what", "median, ms", "added, ms"), rows)


def _relays(costs_ms: dict[str, list[float]]) -> str:
    ours, *_ = costs_ms.values()
    rows = [
        (name, report.spread(ms), report.spread(report.beside(ms, ours, float)))
        for name, ms in costs_ms.items()
    ]
    if "nginx" not in costs_ms:
        rows.append(("nginx", "left out: not installed", ""))
    return report.table(("relay", "ms a stream", "of the gateway's"), rows)
