"""Ends child processes, whichever process is killed first.

There are three ways, each for cases that the others cannot handle: the kernel ends a child with its
parent, a worker ends its predecessor's children, and a guard runs a tree of processes
(docs/architecture/11-how-processes-end.md). This file imports nothing of ours, because the guard is
this file run as a script.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_PARENT, _SESSION, _STARTED = 1, 3, 19  # fields of /proc/PID/stat after the name
_NOT_FOUND = 127  # a shell's exit code
_KILLED = 128  # a shell's exit code, plus the signal's number
_KILLED_S = 10.0  # for killed processes to disappear
_FOR_EVER_S = 3600.0
_ORPHANS_S = 3.0  # enough for a stage to unlink its shared memory
_TOLD = {signal.SIGTERM, signal.SIGINT}


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Have the kernel send this process a signal when its parent dies."""
    _prctl(_PR_SET_PDEATHSIG, number)


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
        _kill(pid, signal.SIGKILL)
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
    return _running(_SESSION, session)


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


def guarded(command: Sequence[str], *, grace_s: float, folder: Path) -> list[str]:
    """Return a command that runs `command` and leaves no process of it behind.

    vLLM-Omni is a tree of processes, and its stages, which have the model in the GPU's memory,
    outlive an API process that is killed. The guard is the tree's root and adopts every orphan in
    it. When the command ends, the guard is told to end, or this process dies, the guard ends the
    whole tree, killing the command after `grace_s`, removes `folder` and exits. This process must
    start it.
    """
    alone = (sys.executable, "-I", "-S", __file__)  # starts in 20 ms, without site-packages
    return [*alone, str(os.getpid()), str(grace_s), str(folder), *command]


def _guard(parent: int, grace_s: float, folder: str, command: list[str]) -> int:
    """Run `command` until it ends or we are told to; return its exit code, as a shell would."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_TOLD, signal.SIGCHLD})
    end_with_parent()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    code = 1
    if os.getppid() == parent:  # else the parent died before we could watch it
        code = _until_ended(_start(command), grace_s)
        _end_rest()
    shutil.rmtree(folder, ignore_errors=True)
    return code


def _start(command: list[str]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        end_with_parent(signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        os.execvp(command[0], command)  # noqa: S606  the operator's command
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.stderr.flush()
    finally:
        os._exit(_NOT_FOUND)


def _until_ended(child: int, grace_s: float) -> int:
    """Reap until `child` has ended; when told to end, pass it on, and kill `grace_s` later."""
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
    """End the command's orphans, and theirs: SIGTERM first, then SIGKILL."""
    deadline = time.monotonic() + _ORPHANS_S
    while True:
        _reap()
        orphans = _running(_PARENT, os.getpid())
        if not orphans:
            return
        for orphan in orphans:
            _kill(orphan, signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)
        signal.sigtimedwait({signal.SIGCHLD}, 0.1)


def _reap() -> dict[int, int]:
    """Return the exit codes of the children that ended, by process id."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            code = os.waitstatus_to_exitcode(found[1])
            ended[found[0]] = code if code >= 0 else _KILLED - code
    return ended


def _running(field: int, number: int) -> list[int]:
    """Return the processes of a parent, or of a session, that have not ended."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if (stat := _stat(pid)) and int(stat[field]) == number]


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name; empty for a process that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] == "Z" else fields


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)


if __name__ == "__main__":
    sys.exit(_guard(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:]))
