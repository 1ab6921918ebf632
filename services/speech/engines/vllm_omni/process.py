"""A vLLM-Omni server as a process of ours: started, its log carried over, and surely ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import tempfile
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.processes import guarded

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger("bentovox.speech.vllm_omni")

_GRACE_S: Final = 10.0
_KILL_S: Final = _GRACE_S + 8.0  # the guard has ended its tree by then
_LONGEST_LINE: Final = 2000
_TAIL_LINES: Final = 20
_LEVEL: Final = re.compile(r"\b(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")
_COLOUR: Final = re.compile(rb"\x1b\[[0-9;]*m")
_LINE_END: Final = re.compile(rb"[\r\n]+")


class OmniProcess:
    """One run of the command; it and all that it started are gone when `stop` returns.

    Attributes:
        url: where it will listen, on loopback.
        pid: the guard's process id, which is also that of its session.
        exit: done, with the exit code, once the command and all of its children have ended.
        tail: the last lines that it wrote.
    """

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        """Watch a process that `launch` started."""
        self._process = process
        self.url = url
        self.pid = process.pid
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self.exit = asyncio.create_task(process.wait())
        self._log = asyncio.create_task(self._carry_log())

    @classmethod
    async def launch(cls, command: Sequence[str], model: str, args: Sequence[str]) -> OmniProcess:
        """Start serving `model` under the guard, in a session of its own."""
        port = _free_port()
        folder = Path(tempfile.mkdtemp(prefix="bentovox-vllm-omni-"))  # the guard removes it
        serving = ("--omni", "--host", "127.0.0.1", "--port", str(port))
        whole = [*command, "serve", model, *serving, "--disable-uvicorn-access-log", *args]
        log.info("starting %s", " ".join(whole))
        if "--trust-remote-code" in whole:
            log.warning("code that the model's repository brings along will be run")
        process = await asyncio.create_subprocess_exec(
            *guarded(whole, grace_s=_GRACE_S, folder=folder),
            env=_environment(Path(command[0]).parent, speakers=folder),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        return cls(process, f"http://127.0.0.1:{port}")

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
        assert stream is not None  # noqa: S101  it is a pipe
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
            named = _LEVEL.search(text[:80])
            level = logging.getLevelNamesMapping()[named[1]] if named else logging.INFO
            log.log(level, "| %s", text)


def _environment(programs: Path, speakers: Path) -> dict[str, str]:
    """Return our environment without our settings, which hold keys, and our own Python's paths."""
    ours = ("BENTOVOX_", "BENTOML_", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",  # its compilers
        "PYTHONUNBUFFERED": "1",
        "SPEAKER_SAMPLES_DIR": str(speakers),
        "VLLM_LOGGING_COLOR": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }


def _free_port() -> int:
    """Return a port on loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
