r"""`python -m ci prepull`: pull what a platform's bases are made from, before a build does.

    python -m ci prepull --platform cuda13
    python -m ci prepull --platform cuda13 --stage whisper
    python -m ci prepull --platform cuda13 \
        --unless ghcr.io/me/bentovox/base-vllm:cuda13-1f2e3d4c5b6a

A build that pulls gigabytes fails at one broken connection (`io: read/write on closed pipe`) and
starts over. This retries, waiting twice as long each time, and keeps the layers that have arrived.
The digests are those of bentos/platforms.toml. What no attempt can change (no such image, no
access) is not retried.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import time
from typing import TYPE_CHECKING, Final

from ci import base, docker, groups, platforms
from ci.errors import CiError
from ci.terminal import result, say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_ATTEMPTS: Final = 5
_FIRST_WAIT_S: Final = 2.0
_FINAL: Final = re.compile(
    r"not found|manifest unknown|unauthorized|denied|forbidden|invalid reference|no space left|"
    r"no matching manifest|authentication required",
    re.IGNORECASE,
)
"""What no further attempt changes; the engine gives no code, only words."""


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.add_argument("--platform", default="cpu", help="of bentos/platforms.toml (default: cpu)")
    parser.add_argument("--stage", default="", help="only what this base is made from")
    parser.add_argument(
        "--unless", default="", metavar="IMAGE", help="pull nothing if a registry has this"
    )


def work(given: argparse.Namespace) -> None:
    """Pull the images of a platform."""
    docker.ready()
    platform = platforms.get(given.platform)
    stages = [given.stage] if given.stage else [*groups.load().stages]
    sources = (base.find(stage, platform).sources for stage in stages)
    references = list(dict.fromkeys(itertools.chain.from_iterable(sources)))
    if given.unless and docker.ask("buildx", "imagetools", "inspect", given.unless) is not None:
        say(f"{given.unless} is in its registry: nothing is pulled")
        references = []
    for reference in references:
        if "@" not in reference:
            say(f"{reference} is not pinned by a digest yet: `python -m ci base pin`")
        ensure(reference)
    result("\n".join(references))


def ensure(
    reference: str, *, attempts: int = _ATTEMPTS, wait: Callable[[float], None] = time.sleep
) -> int:
    """Pull an image unless it is here; return how many attempts that took.

    Raises:
        CiError: the registry refuses, or every attempt broke.
    """
    if docker.inspect(reference):
        say(f"{reference} is here")
        return 0
    broken = 0
    while said := pull(reference):
        broken += 1
        message = docker.explained(said, f"docker pull {reference}")
        if _FINAL.search(said):
            raise CiError(message)
        if broken >= attempts:
            raise CiError(f"{message}; {attempts} attempts broke: try again later")
        pause_s = _FIRST_WAIT_S * 2 ** (broken - 1)
        say(f"{message}; attempt {broken} of {attempts}, the next in {pause_s:.0f} s")
        wait(pause_s)
    return broken + 1


def pull(reference: str) -> str:
    """Pull an image once, with docker's own progress; return what it said if it failed."""
    done = subprocess.run(
        [docker.binary(), "pull", reference],
        stdin=subprocess.DEVNULL,
        stdout=2,  # docker's progress is for the person, results are on 1
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=docker.environment(),
    )
    return (done.stderr.strip() or "it said nothing") if done.returncode else ""
