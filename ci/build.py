"""One run of `docker buildx build`: its progress for a person, and a report of every step.

BuildKit prints its status as JSON lines (`--progress=rawjson`); the report is made of nothing else,
so that what it says was cached is what BuildKit says was cached.
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
from ci.progress import say

if TYPE_CHECKING:
    from collections.abc import Iterable

_EVERY_S: Final = 15.0
_NOT_OF_THE_FILE: Final = ("[internal]", "[context ")
_IMPORT: Final = "importing cache manifest"


@dataclasses.dataclass
class Step:
    """One vertex of a build: its name, whether the cache had it, seconds, and why it failed.

    `began` is 0 where it never did; `spans` are the seconds of each time that BuildKit worked on
    it, by when that began.
    """

    name: str
    cached: bool = False
    seconds: float = 0.0
    error: str = ""
    began: float = 0.0
    log: list[str] = dataclasses.field(default_factory=list)
    spans: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def is_instruction(self) -> bool:
        """Tell whether it is an instruction of the Dockerfile, not BuildKit's own work."""
        return self.name.startswith("[") and not self.name.startswith(_NOT_OF_THE_FILE)


@dataclasses.dataclass
class Report:
    """What a build did."""

    steps: list[Step]
    seconds: float

    @property
    def instructions(self) -> list[Step]:
        """Return the instructions of the Dockerfile, in the order in which they began."""
        return sorted(
            (step for step in self.steps if step.is_instruction), key=lambda step: step.began
        )


def build(arguments: Iterable[str]) -> Report:
    """Run `docker buildx build ARGUMENTS` and return what it did.

    Each step is told as it ends, a long one every 15 seconds.

    Raises:
        CiError: the build failed; the message names the step, what it printed last stands above.
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
            process.terminate()  # else it would go on alone where only this process is told to stop
            raise
    done = Report(list(steps.values()), time.monotonic() - began)
    if process.returncode:
        raise CiError(_failure(done, other))
    return done


def follow(steps: dict[str, Step], event: dict[str, Any]) -> list[Step]:
    """Take one status of BuildKit into `steps`; return those that ended with it."""
    ended = []
    for vertex in event.get("vertexes") or []:
        step = steps.setdefault(vertex["digest"], Step(vertex.get("name", "")))
        step.cached = step.cached or bool(vertex.get("cached"))
        step.error = vertex.get("error") or step.error
        if vertex.get("started"):
            step.began = step.began or _time(vertex["started"])
        if vertex.get("started") and vertex.get("completed"):
            step.spans[vertex["started"]] = _time(vertex["completed"]) - _time(vertex["started"])
            step.seconds = round(sum(step.spans.values()), 3)
            ended.append(step)
    for log in event.get("logs") or []:
        if log.get("vertex") in steps and log.get("data"):
            text = base64.b64decode(log["data"]).decode(errors="replace")
            steps[log["vertex"]].log += text.splitlines()
    return ended


def _tell(step: Step) -> None:
    if step.error and step.name.startswith(_IMPORT):
        say(f"    {step.name}: {step.error}")
    if step.is_instruction and not step.error:
        how = "cached" if step.cached else f"{step.seconds:.1f} s"
        say(f"    {step.name[:100]}  {how}")


def _failure(report: Report, other: list[str]) -> str:
    """Say above what the failed step printed; return the line that names it."""
    failed = [step for step in report.steps if step.error and "canceled" not in step.error]
    if not failed:
        return docker.explained("\n".join(other), "docker buildx build")
    # A cache that cannot be read is no reason to fail; another step is.
    step = next((one for one in failed if not one.name.startswith(_IMPORT)), failed[0])
    for line in step.log[-25:]:
        say(f"    | {line}")
    said = "\n".join([step.error, *step.log[-25:]])  # what it printed says more than its exit code
    return docker.explained(said, step.name[:120])


def _time(text: str) -> float:
    """Read Go's RFC 3339 with nanoseconds."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    moment = dt.datetime.fromisoformat(f"{whole}+00:00")
    return moment.timestamp() + float(f"0.{fraction or 0}")
