"""Live conversations: what we add to the engines' time, and the memory of 20 sessions."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import psutil

from benchmarks import report
from benchmarks.contestants import ROOT, Server, Service, free_port, python, running, told

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COUNTS: Final = (1, 20)
_SECONDS, _MINUTES = 60, 10  # of each case, and of the soak
_TONES: Final = "hello to all of you and to them "
"""What the fake ear reads as it is: a multiple of eight characters, as its frames are."""
_SENTENCE: Final = "Please turn on the light in the kitchen."
_AIM_MS, _AIM_STOPPED_MS = 20, 100
_SAMPLE_S: Final = 5.0
_SETTLED_S: Final = 120.0
"""From then on memory is expected to stay."""

_MIB: Final = 1 << 20
_COLORS: Final = {
    "gateway": report.BLUE,
    "conversation": report.NAVY,
    "chat": report.ORANGE,
    "speech": report.RED,
    "transcription": report.SKY,
    "the rest": report.GREY,
}


def main(arguments: list[str]) -> None:
    options = report.parser("conversation", __doc__).parse_args(arguments)
    *_, door = processes = _without_engines(python())
    with running(*processes):
        ours = {count: _talk(door.url, count, _SECONDS, _TONES) for count in _COUNTS}
    server = _demo(python())
    with running(server):
        demo = {count: _talk(server.url, count, _SECONDS, _SENTENCE) for count in _COUNTS}
        memory, soaked = _soaked(server, _MINUTES * 60)
    report.write(
        options.out,
        "benchmarks-conversation",
        _plot(memory),
        ours=_times(ours),
        demo=_times(demo),
        aim=_AIM_MS,
        aim_stopped=_AIM_STOPPED_MS,
        met=_met(ours[_COUNTS[-1]]),
        minutes=_MINUTES,
        seconds=_SECONDS,
        turns=len(soaked["answered_ms"]),
        errors=len(soaked["errors"]),
        settled=f"{_SETTLED_S / 60:g}",
        memory=_grown(memory),
    )


def _talk(url: str, count: int, seconds: float, text: str) -> dict[str, Any]:
    command = (python(), "-m", "benchmarks.talkers", url, str(count), str(seconds), text)
    seen: dict[str, Any] = told(*command)
    print(f"  {count} at once: {len(seen['answered_ms'])} turns", file=sys.stderr, flush=True)
    for error in sorted(set(seen["errors"])):
        print(f"    an error: {error}", file=sys.stderr, flush=True)
    return seen


def _without_engines(stack: str) -> list[Server]:
    """Return every role before engines that take no time, the gateway last."""
    port = free_port()
    uvicorn = [stack, "-m", "uvicorn", "--factory", "benchmarks.talkers:chat"]
    quiet = ["--host=127.0.0.1", f"--port={port}", "--no-access-log", "--log-level=warning"]
    chat = Server("fake-chat", [*uvicorn, *quiet, "--lifespan=off"], port)
    fake = {
        f"BENTOVOX_{role}__{name}": value
        for role in ("SPEECH", "TRANSCRIPTION")
        for name, value in (("ENGINE", "fake"), ("SLOTS", "64"))
    }
    speech = Service("fake-speech", stack, "tests.fakes.services:Speech", **fake)
    hearing = Service("fake-ear", stack, "tests.fakes.services:Transcription", **fake)
    backends = {"CHAT": chat, "SPEECH": speech, "TRANSCRIPTION": hearing}
    backends["CONVERSATION"] = Service("conversation", stack, **_urls("CONVERSATION", backends))
    return [*backends.values(), Service("gateway", stack, **_urls("GATEWAY", backends))]


def _urls(role: str, backends: Mapping[str, Server]) -> dict[str, str]:
    return {f"BENTOVOX_{role}__{name}": json.dumps([one.url]) for name, one in backends.items()}


def _demo(stack: str) -> Server:
    """Return the demo's stack: espeak-ng, and a Whisper that learnt a dozen sentences."""
    whisper = "from tests.whisper import trained; print(trained())"
    model = subprocess.check_output([stack, "-c", whisper], cwd=ROOT, text=True).split()[-1]
    settings = {f"BENTOVOX_{role}__SLOTS": "64" for role in ("CHAT", "SPEECH", "TRANSCRIPTION")}
    settings["BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL"] = model
    return Service("stack", stack, "services.stack:Stack", BENTOVOX_PROFILE="demo", **settings)


def _soaked(server: Server, seconds: float) -> tuple[dict[str, list[tuple[float, float]]], Any]:
    """Return the memory of each role in MiB, by the seconds since the start, and what was seen."""
    memory: dict[str, list[tuple[float, float]]] = {name: [] for name in _COLORS}
    over = threading.Event()

    def sample() -> None:
        began = time.monotonic()
        while not over.wait(_SAMPLE_S):
            sizes = _sizes(server)
            for name, series in memory.items():
                series.append((time.monotonic() - began, sizes[name] / _MIB))

    sampling = threading.Thread(target=sample)
    sampling.start()
    try:
        return memory, _talk(server.url, _COUNTS[-1], seconds, _SENTENCE)
    finally:
        over.set()
        sampling.join()


def _sizes(server: Server) -> Counter[str]:
    """Return the unshared memory of the processes of each role; vLLM's engine is chat's."""
    sizes = Counter[str]()
    for name, process in server.named():
        with contextlib.suppress(psutil.NoSuchProcess):
            role = {"vLLM engine": "chat"}.get(name, name)
            sizes[role if role in _COLORS else "the rest"] += process.memory_full_info().uss
    return sizes


def _times(seen: Mapping[int, Mapping[str, Sequence[float]]]) -> str:
    rows = [
        (
            count,
            len(one["answered_ms"]),
            _percentiles(one["answered_ms"]),
            len(one["stopped_ms"]),
            _percentiles(one["stopped_ms"]),
            _percentiles(one["ended_ms"]),
        )
        for count, one in seen.items()
    ]
    columns = (
        "sessions",
        "turns",
        "to the first sound, ms",
        "interruptions",
        "from their sound, ms",
        "from `speech_started`, ms",
    )
    return report.table(columns, rows)


def _percentiles(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "-"
    hundredths = statistics.quantiles(values, n=100, method="inclusive")
    return f"{statistics.median(values):.0f} [{hundredths[4]:.0f}, {hundredths[94]:.0f}]"


def _met(seen: Mapping[str, Sequence[float]]) -> str:
    first, stopped = (statistics.median(seen[name]) for name in ("answered_ms", "stopped_ms"))
    sentences = {
        f"The first sound within {_AIM_MS} ms": first <= _AIM_MS,
        f"an interruption within {_AIM_STOPPED_MS} ms": stopped <= _AIM_STOPPED_MS,
    }
    return "; ".join(f"{said}: {'met' if met else 'missed'}" for said, met in sentences.items())


def _grown(memory: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    rows = []
    for name, series in memory.items():
        settled = [size for at, size in series if at >= _SETTLED_S] or [size for _, size in series]
        third = max(1, len(settled) // 3)
        before, after = statistics.mean(settled[:third]), statistics.mean(settled[-third:])
        rows.append((name, f"{before:.0f}", f"{after:.0f}", f"{after - before:+.1f}"))
    return report.table(("processes", "first third, MiB", "last third, MiB", "grown"), rows)


def _plot(memory: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    figure = report.plot(8, 4)
    axes = figure.subplots()
    for name, series in memory.items():
        minutes, sizes = [at / 60 for at, _ in series], [size for _, size in series]
        axes.plot(minutes, sizes, color=_COLORS[name], label=name)
    axes.set(title="Memory of 20 live conversations", xlabel="minutes", ylabel="MiB")
    axes.set_yscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    report.legend(figure, axes, 6)
    return figure
