"""Ends child processes, whichever process is killed first.

There are two ways: the kernel ends a child with its parent, and a worker ends its predecessor's
children (docs/architecture/11-how-processes-end.md).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import tempfile
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_SESSION, _STARTED = 3, 19  # fields of /proc/PID/stat after the name
_KILLED_S = 10.0  # for killed processes to disappear


def end_with_parent() -> None:
    """Have the kernel send this process SIGTERM when its parent dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_orphans() -> list[int]:
    """Kill the processes that this worker's predecessor left; return their ids.

    A worker that gets SIGKILL cannot end its children. BentoML's supervisor makes each worker the
    leader of a session, which its children stay in even if they rename themselves. So each worker
    records its session, and the supervisor's next worker kills what is left of it.
    """
    record = _record()
    orphans = []
    with contextlib.suppress(FileNotFoundError, ValueError):
        orphans = _left_of(int(record.read_text(encoding="utf-8")))
    for pid in orphans:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _KILLED_S
    while any(_stat(pid) for pid in orphans) and time.monotonic() < deadline:
        time.sleep(0.05)
    record.write_text(str(os.getsid(0)), encoding="utf-8")
    return orphans


def _left_of(session: int) -> list[int]:
    """Return the processes of a session whose leader has ended.

    The kernel does not reuse a session's number while it has members. So if a process has that
    number now, the session had ended, and none of its members are ours.
    """
    if session == os.getsid(0) or _stat(session):
        return []
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if (stat := _stat(pid)) and int(stat[_SESSION]) == session]


def _record() -> Path:
    """Return the file for this worker's supervisor, named by its process id and start time.

    Removes the files of supervisors that have ended.
    """
    parent = os.getppid()
    folder = Path(tempfile.gettempdir()) / f"bentovox-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        folder = Path(tempfile.mkdtemp(prefix="bentovox-"))  # somebody else's: not to be trusted
    for left in folder.glob("chat-*-*"):
        _, pid, started = left.name.split("-")
        if _started(int(pid)) != started:
            left.unlink(missing_ok=True)
    return folder / f"chat-{parent}-{_started(parent)}"


def _started(pid: int) -> str:
    stat = _stat(pid)
    return stat[_STARTED] if stat else "0"


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name; empty for a process that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] == "Z" else fields
