"""A vLLM-Omni server as a process of ours: started, its log carried over, and surely ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
from collections import deque
from typing import TYPE_CHECKING, Final

from services.processes import guarded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

log = logging.getLogger("bentovox.speech.vllm_omni")

_GRACE_S: Final = 10.0
_KILL_S: Final = _GRACE_S + 8.0  # the guard has ended its tree by then
_LONGEST_LINE: Final = 2000
_TAIL_LINES: Final = 20
_LEVELS: Final = {
    name: getattr(logging, name) for name in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
}
_LEVEL: Final = re.compile(rf"\b({'|'.join(_LEVELS)})\b")
_COLOUR: Final = re.compile(rb"\x1b\[[0-9;]*m")
_LINE_END: Final = re.compile(rb"[\r\n]+")


class OmniProcess:
    """One run of the command; it and all that it started are gone when `stop` returns.

    Attributes:
        exit: done, with the exit code, once the command and all of its children have ended.
        tail: the last lines that it wrote.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Watch a process that `launch` started."""
        self._process = process
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._log = asyncio.create_task(self._carry_log())
        self.exit = asyncio.create_task(process.wait())

    @classmethod
    async def launch(
        cls, command: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> OmniProcess:
        """Start `command` under the guard, in a session of its own, so that it never outlives us.

        `environment` is added to what `inherited` keeps of ours; `folder` is removed at the end.
        """
        process = await asyncio.create_subprocess_exec(
            *guarded(command, grace_s=_GRACE_S, folder=folder),
            env={**inherited(), **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        return cls(process)

    @property
    def pid(self) -> int:
        """The guard's process id, which is also that of its session."""
        return self._process.pid

    async def stop(self) -> None:
        """Ask it to end, and after 10 s make it; may be called again after it was cancelled."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(_KILL_S):
                await asyncio.shield(self.exit)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            await asyncio.shield(self.exit)
        self._log.cancel()
        await asyncio.gather(self._log, return_exceptions=True)

    async def _carry_log(self) -> None:
        """Write its output to our log, line by line, at the level that the line names."""
        stream = self._process.stdout
        if stream is None:
            return
        waiting = b""
        while piece := await stream.read(1 << 16):
            *lines, waiting = _LINE_END.split(waiting + piece)
            waiting = waiting[-_LONGEST_LINE:]
            for line in lines:
                self._write(line)
        self._write(waiting)

    def _write(self, line: bytes) -> None:
        text = _COLOUR.sub(b"", line)[:_LONGEST_LINE].decode("utf-8", "replace").strip()
        if text:
            self.tail.append(text)
            level = _LEVEL.search(text[:80])
            log.log(_LEVELS[level[1]] if level else logging.INFO, "| %s", text)


def inherited() -> dict[str, str]:
    """Return our environment without our settings, which hold keys, and our own Python's paths."""
    return {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("BENTOVOX_", "BENTOML_"))
            and name not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
        },
        "PYTHONUNBUFFERED": "1",
        "VLLM_LOGGING_COLOR": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }


def free_port() -> int:
    """Return a port on loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
