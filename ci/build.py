"""One run of `docker buildx build`: its progress for a person, and why it failed.

BuildKit prints its status as JSON lines (`--progress=rawjson`), which are read here.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import json
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final

from ci import docker
from ci.errors import CiError
from ci.terminal import say

if TYPE_CHECKING:
    from collections.abc import Iterable

_EVERY_S: Final = 15.0
_NOT_OF_THE_FILE: Final = ("[internal]", "[context ")
_IMPORT: Final = "importing cache manifest"


@dataclasses.dataclass
class Step:
    """One vertex of a build: its name, whether the cache had it, seconds, and why it failed."""

    name: str
    cached: bool = False
    seconds: float = 0.0
    error: str = ""
    log: list[str] = dataclasses.field(default_factory=list)


def build(arguments: Iterable[str]) -> float:
    """Run `docker buildx build ARGUMENTS` and return the seconds that it took.

    Each step is reported as it ends; every 15 seconds without one, that the build goes on.

    Raises:
        CiError: the build failed; the message names the step, whose last lines were printed.
    """
    command = [docker.binary(), "buildx", "build", "--progress=rawjson", *arguments]
    began = time.monotonic()
    steps: dict[str, Step] = {}
    other: list[str] = []
    told = began
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=docker.environment(),
    ) as process:
        try:
            for line in process.stderr or ():
                try:
                    event = json.loads(line)
                except ValueError:
                    event = None
                if not isinstance(event, dict):
                    other.append(line.rstrip())
                    continue
                for step in follow(steps, event):
                    _tell(step)
                    told = time.monotonic()
                if time.monotonic() - told > _EVERY_S:
                    told = time.monotonic()
                    say(f"    ... still at work after {told - began:.0f} s")
        except BaseException:
            process.terminate()  # a signal may have reached this process only
            raise
    if process.returncode:
        raise CiError(_failure(steps.values(), other))
    return time.monotonic() - began


def follow(steps: dict[str, Step], event: dict[str, Any]) -> list[Step]:
    """Update `steps` with one status of BuildKit; return those that ended with it."""
    ended = []
    for vertex in event.get("vertexes") or []:
        step = steps.setdefault(vertex["digest"], Step(vertex.get("name", "")))
        step.cached = step.cached or bool(vertex.get("cached"))
        step.error = vertex.get("error") or step.error
        if vertex.get("started") and vertex.get("completed"):
            step.seconds = _time(vertex["completed"]) - _time(vertex["started"])
            ended.append(step)
    for log in event.get("logs") or []:
        if log.get("vertex") in steps and log.get("data"):
            text = base64.b64decode(log["data"]).decode(errors="replace")
            steps[log["vertex"]].log += text.splitlines()
    return ended


def _tell(step: Step) -> None:
    if step.error and step.name.startswith(_IMPORT):
        say(f"    {step.name}: {step.error}")
    is_instruction = step.name.startswith("[") and not step.name.startswith(_NOT_OF_THE_FILE)
    if is_instruction and not step.error:
        how = "cached" if step.cached else f"{step.seconds:.1f} s"
        say(f"    {step.name[:100]}  {how}")


def _failure(steps: Iterable[Step], other: list[str]) -> str:
    """Print what the failed step printed, and return the line that names it."""
    failed = [step for step in steps if step.error and "canceled" not in step.error]
    if not failed:
        return docker.explained("\n".join(other), "docker buildx build")
    # A cache that cannot be read does not fail a build; another step did.
    step = next((one for one in failed if not one.name.startswith(_IMPORT)), failed[0])
    for line in step.log[-25:]:
        say(f"    | {line}")
    said = "\n".join([step.error, *step.log[-25:]])  # its output says more than its exit code
    return docker.explained(said, step.name[:120])


def _time(text: str) -> float:
    """Read Go's RFC 3339 with nanoseconds."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    moment = dt.datetime.fromisoformat(f"{whole}+00:00")
    return moment.timestamp() + float(f"0.{fraction or 0}")
