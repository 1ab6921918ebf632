"""One run of `docker buildx build`: its progress for a person, and one line on why it failed."""

from __future__ import annotations

import collections
import re
import subprocess
import time
from typing import TYPE_CHECKING, Final

from ci import docker
from ci.errors import CiError
from ci.terminal import say

if TYPE_CHECKING:
    from collections.abc import Iterable

_KEPT_LINES: Final = 1000
_FAILED: Final = re.compile(r"^#(?P<number>\d+) ERROR: ", re.MULTILINE)
_NAMED: Final = re.compile(r"^------\n > (?!importing cache manifest)(?P<step>.*):$", re.MULTILINE)
_LOGGED: Final = re.compile(r"^#(?P<number>\d+) \d+\.\d+ (?P<line>.*\S.*)$", re.MULTILINE)


def build(arguments: Iterable[str]) -> float:
    """Run `docker buildx build ARGUMENTS` and return the seconds that it took.

    Raises:
        CiError: the build failed; the message names the step and the last line that it printed.
    """
    command = [docker.binary(), "buildx", "build", "--progress=plain", *arguments]
    began = time.monotonic()
    said = collections.deque[str](maxlen=_KEPT_LINES)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=docker.environment(),
    ) as process:
        try:
            for line in process.stderr or ():
                said.append(line)
                say(f"    {line.rstrip()}")
        except BaseException:
            process.terminate()  # a signal may have reached this process only
            raise
    if process.returncode:
        raise CiError(failure("".join(said)))
    return time.monotonic() - began


def failure(said: str) -> str:
    """Return the line that says why a build failed, from all that buildx printed."""
    failed = set(_FAILED.findall(said))
    # A cache that cannot be read fails, too, but prints nothing.
    printed = [line for number, line in _LOGGED.findall(said) if number in failed]
    if printed and (named := _NAMED.search(said)):
        return docker.explained("\n".join(printed), named["step"][:120])
    return docker.explained(said.rpartition("------\n")[2], "docker buildx build")
