"""Engine processes that outlived the worker they belonged to.

A worker that is killed with SIGKILL takes no leave of its children: vLLM's engine process stays,
with the model in the (GPU's) memory, and the worker that BentoML starts in its place would find no
room. BentoML's supervisor makes each worker the leader of a session, which its children stay in
whatever they call themselves; so a worker writes down its session, and the next worker of the same
supervisor ends what is left of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from pathlib import Path

_WAIT_S = 10.0


def end_orphans() -> list[int]:
    """End what is left of the predecessor's session; return the ids of the processes ended."""
    record = _record()
    with contextlib.suppress(FileNotFoundError, ValueError):
        predecessor = int(record.read_text(encoding="utf-8"))
        orphans = _left_of(predecessor)
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _WAIT_S
        while any(_stat(pid) for pid in orphans) and time.monotonic() < deadline:
            time.sleep(0.05)
        record.write_text(str(os.getsid(0)), encoding="utf-8")
        return orphans
    record.write_text(str(os.getsid(0)), encoding="utf-8")
    return []


def _left_of(session: int) -> list[int]:
    """Return the processes of a session whose leader is gone.

    While a session has members the kernel gives its number to no new process. One that has the
    number now shows that the session had ended: then nothing is ours.
    """
    if session == os.getsid(0) or _stat(session):
        return []
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if (stat := _stat(pid)) and int(stat[3]) == session]


def _record() -> Path:
    """Return the file of this worker's supervisor, named by its process id and start time.

    The files of supervisors that have ended are removed.
    """
    parent = os.getppid()
    stat = _stat(parent)
    folder = Path(tempfile.gettempdir()) / f"bentovox-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        folder = Path(tempfile.mkdtemp(prefix="bentovox-"))  # somebody else's: trust nothing in it
    for left in folder.glob("chat-*-*"):
        _, pid, start = left.name.split("-")
        if (_stat(int(pid)) or [""] * 20)[19] != start:
            left.unlink(missing_ok=True)
    return folder / f"chat-{parent}-{stat[19] if stat else 0}"


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name; empty for a process that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] == "Z" else fields
