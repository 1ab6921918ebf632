"""One build: its options, its context, what comes of it is called, `docker buildx build`."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from ci import docker
from ci.errors import CiError
from ci.platforms import Platform
from ci.terminal import say

EPOCH: Final = 315532800
"""1980-01-01: the time of every file in an image, so that equal inputs give equal layers."""

_KEPT_LINES: Final = 1000
_FAILED: Final = re.compile(r"^#(\d+) ERROR: process ", re.MULTILINE)
"""A step whose command failed. What buildx repeats of it at the end is empty now and then."""


def repository(name: str, registry: str = "") -> str:
    """Return the repository of a bento's image, or of `base-STAGE`, below the registry if any.

    An owner's name may have capitals, a repository may not.
    """
    return f"{registry.rstrip('/').lower()}/bentovox/{name}".lstrip("/")


def cache(name: str, platform: str, registry: str = "") -> str:
    """Return where the build cache of an image or a base is, one for each platform."""
    return f"{repository(name, registry)}:cache-{platform}"


@dataclasses.dataclass(frozen=True)
class Options:
    """How something is built: where it is pushed, which caches are read and written.

    `cache_from` and `cache_to` are buildx's; `network` is `host` where build steps must share the
    host's network.
    """

    registry: str = ""
    push: bool = False
    cache_from: Sequence[str] = ()
    cache_to: Sequence[str] = ()
    network: str = ""
    no_cache: bool = False
    compression: str = "zstd"

    def arguments(self, *names: str) -> list[str]:
        """Return buildx's arguments for an image of these names."""
        # What is pushed is not kept here: an engine would fetch and unpack all of it for that.
        kind = "type=registry,store=false" if self.push else "type=image,unpack=true"
        output = (
            f'{kind},"name={",".join(names)}",compression={self.compression},oci-mediatypes=true'
        )
        return [
            f"--output={output}",
            f"--build-arg=SOURCE_DATE_EPOCH={EPOCH}",
            "--provenance=false",
            *(f"--cache-from={entry}" for entry in self.cache_from),
            *(f"--cache-to={entry}" for entry in self.cache_to),
            *([f"--network={self.network}"] if self.network else []),
            *(["--no-cache"] if self.no_cache else []),
        ]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every verb that builds."""
    add, as_buildx = parser.add_argument, "as docker buildx takes it"
    add("--platform", default="", help="a platform of bentos/platforms.toml")
    add("--registry", default="", help="registry and owner before every name, such as ghcr.io/me")
    add("--push", action="store_true", help="push to the registry instead of keeping it here")
    add("--cache-from", action="append", default=[], metavar="CACHE", help=as_buildx)
    add("--cache-to", action="append", default=[], metavar="CACHE", help=as_buildx)
    add("--network", default="", help="the network of build steps: host, where they need it")
    add("--no-cache", action="store_true", help="do every step again")


def options_of(given: argparse.Namespace) -> Options:
    """Return the options that were given."""
    if given.push and not given.registry:
        raise CiError("--push needs --registry, such as --registry ghcr.io/me")
    known = {one.name for one in dataclasses.fields(Options)}
    return Options(**{name: value for name, value in vars(given).items() if name in known})


def wheels() -> Path | None:
    """Return the folder of wheels that UV_FIND_LINKS names; None if it names none."""
    links = os.environ.get("UV_FIND_LINKS", "").split(",")
    return next((Path(link) for link in links if link and Path(link).is_dir()), None)


def wheels_context(platform: Platform) -> list[str]:
    """Return buildx's option that gives a build the folder of wheels.

    That has torch's CPU build, which must not decide what a GPU gets.
    """
    folder = wheels()
    return [f"--build-context=wheels={folder}"] if folder and not platform.cuda else []


def settle(folder: Path) -> None:
    """Give everything in a folder the same time, and modes that let any user read it."""
    for path in [*sorted(folder.rglob("*"), reverse=True), folder]:
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        os.utime(path, (EPOCH, EPOCH))


def digest(folder: Path) -> str:
    """Return 12 hexadecimal digits for the paths, modes and contents of all in a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(f"\0{path.relative_to(folder)}\0{path.stat().st_mode:o}\0".encode())
        if path.is_file():
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:12]


def named(folder: Path) -> Path:
    """Settle a build context, add its content to its name, and return its new path.

    An engine keeps the context it was sent under the folder's name, whatever the path above, and of
    the next context of that name it takes only files with another size or time. It would miss some
    here, and the folders of the others would get the time of the build.
    """
    settle(folder)
    name = f"{folder.name}-{digest(folder)}"
    for old in folder.parent.glob(f"{folder.name}-*"):
        shutil.rmtree(old)
    return folder.rename(folder.with_name(name))


def build(arguments: Iterable[str]) -> float:
    """Run `docker buildx build ARGUMENTS` and return the seconds that it took."""
    began = time.monotonic()
    said = collections.deque[str](maxlen=_KEPT_LINES)
    with subprocess.Popen(
        [docker.binary(), "buildx", "build", "--progress=plain", *arguments],
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
    if failed := _FAILED.search(said):
        of_step = rf"^#{failed[1]} "
        (step, *_) = (*re.findall(rf"{of_step}(\[.*)$", said, re.MULTILINE), "docker buildx build")
        if printed := re.findall(rf"{of_step}\d+\.\d+ (.*)$", said, re.MULTILINE):
            return docker.explained("\n".join(printed), step[:120])
    return docker.explained(said.rpartition("------\n")[2], "docker buildx build")
