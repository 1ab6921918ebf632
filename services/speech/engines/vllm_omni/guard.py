"""Runs a command and leaves nothing of it behind, no process and no file in its folder.

`python -I -S guard.py PARENT GRACE_S FOLDER COMMAND…`

vLLM-Omni is a tree of processes, and its stages, which hold the model in the GPU's memory, outlive
an API process that is killed. This process stands above the tree. It adopts every orphan of it
(PR_SET_CHILD_SUBREAPER), so when the command ends, or it is told to end, or its own parent dies,
it ends them all before it goes, and removes the folder, which holds recordings. It imports nothing
of ours: it is started as a file, in 20 ms.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_NOT_FOUND = 127  # what a shell exits with
_KILLED = 128  # and, with the signal's number added, for one that was killed
_FOR_EVER_S = 3600.0
_ORPHANS_S = 3.0  # for shared memory to be unlinked; a stage needs no longer
_TOLD = {signal.SIGTERM, signal.SIGINT}


def main(parent: int, grace_s: float, folder: str, command: list[str]) -> int:
    """Run `command` until it ends or we are told to; return its exit code, as a shell would."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_TOLD, signal.SIGCHLD})
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    code = 1
    if os.getppid() == parent:  # else it died before it could be watched
        code = _until_ended(_start(command), grace_s)
        _end_rest()
    shutil.rmtree(folder, ignore_errors=True)
    return code


def _start(command: list[str]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        os.execvp(command[0], command)  # noqa: S606  the operator's command
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.stderr.flush()
    finally:
        os._exit(_NOT_FOUND)


def _until_ended(child: int, grace_s: float) -> int:
    """Reap until `child` has ended; told to end, pass it on, and kill `grace_s` later."""
    kill_at = None
    while (code := _reap().get(child)) is None:
        wait_s = _FOR_EVER_S if kill_at is None else max(kill_at - time.monotonic(), 0.0)
        came = signal.sigtimedwait({*_TOLD, signal.SIGCHLD}, wait_s)
        if kill_at is None and came is not None and came.si_signo in _TOLD:
            os.kill(child, signal.SIGTERM)
            kill_at = time.monotonic() + grace_s
        elif kill_at is not None and time.monotonic() >= kill_at:
            os.kill(child, signal.SIGKILL)
            kill_at = time.monotonic() + _ORPHANS_S
    return code


def _end_rest() -> None:
    """End what the command left: first asked to, then killed, with whatever they leave in turn."""
    how = signal.SIGTERM
    deadline = time.monotonic() + _ORPHANS_S
    while True:
        _reap()
        orphans = _children()
        if not orphans:
            return
        if time.monotonic() >= deadline:
            how = signal.SIGKILL
        for orphan in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(orphan, how)
        signal.sigtimedwait({signal.SIGCHLD}, 0.1)


def _reap() -> dict[int, int]:
    """Return the exit codes of the children that ended, by process id."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            code = os.waitstatus_to_exitcode(found[1])
            ended[found[0]] = code if code >= 0 else _KILLED - code
    return ended


def _children() -> list[int]:
    mine = str(os.getpid())
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                if fields[1] == mine and fields[0] != "Z":
                    found.append(int(entry.name))
    return found


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:]))
