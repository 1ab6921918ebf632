r"""`python -m ci prepull`: pull what a platform's bases are made from, before a build does.

    python -m ci prepull --platform cuda13
    python -m ci prepull --platform cuda13 --stage whisper --attempts 10
    python -m ci prepull --platform cuda13 \
        --unless ghcr.io/me/bentovox/base-vllm:cuda13-1f2e3d4c5b6a

A build that pulls gigabytes dies of one connection that breaks (`io: read/write on closed pipe`)
and begins again. Here a pull that breaks is tried again, after a wait that doubles; layers that
came stay. The digests are those of bentos/platforms.toml. What the registry says will never work
(no such image, no access) is not tried again, and a disk that is too small is told first.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ci import base, command, docker, groups, naming, platforms
from ci.errors import CiError
from ci.progress import say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_ATTEMPTS: Final = 5
_FIRST_WAIT_S: Final = 2.0
_EVERY_S: Final = 15.0
_GB: Final = 1_000_000_000
_ROOM: Final = 3
"""The engine keeps an image's layers as they came, and unpacked: about twice that (measured on
wheels, 4.11 GB and 8 GB)."""

_FINAL: Final = re.compile(
    r"not found|manifest unknown|unauthorized|denied|forbidden|invalid reference|no space left|"
    r"no matching manifest|authentication required",
    re.IGNORECASE,
)
"""What no further attempt changes; the engine has no code for it, only words."""


@dataclasses.dataclass(frozen=True)
class Pulled:
    """One image that is here now: how many attempts and seconds it took; none if it was here."""

    reference: str
    attempts: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Size:
    """What a registry says of an image: its layers, and their bytes as they are sent."""

    layers: int
    sent_bytes: int


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.parser("prepull", __doc__)
    options.add_argument(
        "--platform", default="cpu", help="of bentos/platforms.toml (default: cpu)"
    )
    options.add_argument("--stage", default="", help="what this base is made from (default: all)")
    options.add_argument(
        "--attempts", type=int, default=_ATTEMPTS, help=f"for each image (default: {_ATTEMPTS})"
    )
    options.add_argument(
        "--unless", default="", metavar="IMAGE", help="nothing, where a registry has this already"
    )
    return options


def main(arguments: list[str] | None = None) -> int:
    """Pull the images of a platform."""
    given = parser().parse_args(arguments)
    return command.run("prepull", lambda: _work(given))


def _work(given: argparse.Namespace) -> None:
    docker.ready()
    platform = platforms.get(given.platform)
    stages = [given.stage] if given.stage else [*groups.load().stages]
    sources = (base.find(stage, platform).sources for stage in stages)
    references = list(dict.fromkeys(itertools.chain.from_iterable(sources)))
    for reference in references:
        if "@" not in reference:
            say(f"{reference} is not pinned by a digest yet: `python -m ci base pin`")
    if given.unless and docker.ask("buildx", "imagetools", "inspect", given.unless) is not None:
        say(f"{given.unless} is in its registry: nothing is pulled")
        references = []
    done = [ensure(reference, attempts=given.attempts) for reference in references]
    if given.json:
        command.result_json([dataclasses.asdict(one) for one in done])
    else:
        command.result("\n".join(one.reference for one in done))


def ensure(
    reference: str, *, attempts: int = _ATTEMPTS, wait: Callable[[float], None] = time.sleep
) -> Pulled:
    """Pull an image unless it is here, trying again where that may help.

    Raises:
        CiError: the registry refuses, the disk is too small, or every attempt broke.
    """
    if docker.inspect(reference):
        say(f"{reference} is here")
        return Pulled(reference, 0, 0.0)
    began = time.monotonic()
    for attempt in range(1, attempts + 1):
        try:
            size = size_of(reference)
            enough(size, engine_folder())
            say(f"Pulling {reference}: {size.layers} layers, {size.sent_bytes / _GB:.2f} GB")
            pull(reference, size.layers)
        except Broken as error:
            if attempt == attempts:
                raise CiError(f"{error}; {attempts} attempts broke: try again later") from error
            pause_s = _FIRST_WAIT_S * 2 ** (attempt - 1)
            say(f"{error}; attempt {attempt} of {attempts}, the next in {pause_s:.0f} s")
            wait(pause_s)
        else:
            return Pulled(reference, attempt, round(time.monotonic() - began, 1))
    raise CiError(f"--attempts {attempts}: there must be one")


class Broken(Exception):  # noqa: N818  it is caught here, and no error while it may be tried again
    """What broke may work the next time."""


def size_of(reference: str) -> Size:
    """Return how much an image is, for this engine's architecture.

    Raises:
        CiError: the registry refuses.
        Broken: it does not answer.
    """
    document = _manifest(reference)
    if "manifests" in document:
        architecture = docker.call("version", "--format", "{{.Server.Arch}}")
        fitting = [
            one["digest"]
            for one in document["manifests"]
            if one.get("platform", {}).get("architecture") == architecture
            and one["platform"].get("os") == "linux"
        ]
        if not fitting:
            raise CiError(f"{reference} is not made for linux/{architecture}")
        document = _manifest(f"{naming.untagged(reference)}@{fitting[0]}")
    layers = document["layers"]
    return Size(len(layers), sum(layer["size"] for layer in layers))


def enough(size: Size, folder: Path | None) -> None:
    """Refuse an image for which the engine's disk has no room; nothing where it is not here.

    Raises:
        CiError: there is too little room.
    """
    if folder is None:
        return
    free, needed = shutil.disk_usage(folder).free, _ROOM * size.sent_bytes
    if free < needed:
        raise CiError(
            f"{folder} has {free / _GB:.1f} GB free, this image needs about {needed / _GB:.1f} GB: "
            "`python -m ci disk --prune` frees what builds hold"
        )


def engine_folder() -> Path | None:
    """Return where the engine keeps its images, None where that is on another machine."""
    folder = Path(docker.call("info", "--format", "{{.DockerRootDir}}"))
    return folder if folder.is_dir() else None


def pull(reference: str, layers: int) -> None:
    """Pull an image once; tell how many of its layers are here, at least every 15 seconds.

    Raises:
        CiError: the registry refuses.
        Broken: it broke off.
    """
    began = time.monotonic()
    said = b""
    with subprocess.Popen(
        [docker.binary(), "pull", reference],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=docker.environment(),
    ) as process:
        pipe = process.stdout.fileno() if process.stdout else -1
        told = 0
        while True:
            readable, _, _ = select.select([pipe], [], [], _EVERY_S)
            chunk = os.read(pipe, 65536) if readable else None
            if chunk == b"":
                break
            said += chunk or b""
            here = len(re.findall(rb": (?:Pull complete|Already exists)", said))
            if here > told or chunk is None:
                told = here
                say(f"    {here} of {layers} layers, {time.monotonic() - began:.0f} s")
    if process.returncode:
        _refuse(said.decode(errors="replace"), f"docker pull {reference}")


def _manifest(reference: str) -> dict[str, Any]:
    done = subprocess.run(
        [docker.binary(), "buildx", "imagetools", "inspect", "--raw", reference],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=docker.environment(),
    )
    if done.returncode:
        _refuse(done.stderr, f"reading {reference}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def _refuse(said: str, what: str) -> None:
    """Raise what kind of failure it was."""
    message = docker.explained(said, what)
    if _FINAL.search(said):
        raise CiError(message)
    raise Broken(message)
