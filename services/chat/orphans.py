"""Engine processes that outlived the worker they belonged to.

A worker that is killed with SIGKILL takes no leave of its children: vLLM's engine process stays,
with the model in the (GPU's) memory, and the worker that BentoML starts in its place would find no
room. Each engine process inherits a mark that names its supervisor; a new worker of the same
supervisor first ends what still carries it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

_VARIABLE = "BENTOVOX_SUPERVISOR"
_WAIT_S = 10.0


def end_orphans() -> list[int]:
    """End the engine processes of a predecessor, mark our own to come, return those ended."""
    mark = _mark()
    # Only what was started with the mark has it in /proc: engines, not this worker.
    orphans = [pid for pid in _processes() if mark in _environment(pid)]
    for pid in orphans:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _WAIT_S
    while any(_environment(pid) for pid in orphans) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.environ[_VARIABLE] = mark.partition(b"=")[2].decode()
    return orphans


def _mark() -> bytes:
    """Return what names this worker's supervisor: its process id and start, as `NAME=value`."""
    parent = os.getppid()
    started = (
        Path(f"/proc/{parent}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    )
    return f"{_VARIABLE}={parent}.{started}".encode()


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
