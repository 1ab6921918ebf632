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
_FAILED: Final = re.compile(r"^-{6}\n > (?P<step>.*):\n(?P<said>(?:.*\n)*?)-{6}$", re.MULTILINE)
"""How buildx repeats, at the end, what a step printed that failed."""
_SINCE: Final = re.compile(r"^\d+\.\d+ ", re.MULTILINE)
_IMPORT: Final = "importing cache manifest"


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
    for failed in _FAILED.finditer(said):
        # A cache that cannot be read does not fail a build; another step did.
        if failed["said"] and not failed["step"].startswith(_IMPORT):
            return docker.explained(_SINCE.sub("", failed["said"]), failed["step"][:120])
    return docker.explained(said.rpartition("------\n")[2], "docker buildx build")
