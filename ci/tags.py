r"""`python -m ci tags`: the tags that a tested image gets beside that of its content.

    python -m ci tags chat --platform cuda13
    python -m ci tags chat --platform cuda13 --registry ghcr.io/me \
        --apply ghcr.io/me/bentovox/chat@sha256:...

The platform's name alone moves with the default branch; the others add to it the commit, the day,
or a release's number: cuda13, cuda13-0123456789ab, cuda13-2026-11-24, 1.2.3-cuda13, 1.2-cuda13.
There is no `latest`, which would not name the platform. --apply adds the tags, in the registry, to
an image that was tested by its digest.
"""

from __future__ import annotations

import argparse
import re
from typing import Final

from ci import build, docker, git, platforms, specs
from ci.errors import CiError
from ci.terminal import result, say

DEFAULT_BRANCH: Final = "main"
_INPUTS: Final = ("LICENSE", "bentofile.yaml", "bentos", "ci", "services")
"""What images are made of; uncommitted changes elsewhere do not matter."""
_RELEASE: Final = re.compile(r"v(?P<number>(?P<series>\d+\.\d+)\.\d+)(?P<candidate>[-.\w]*)")


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.add_argument("bento", help=f"one of {', '.join(specs.names())}")
    parser.add_argument("--platform", default="", help="default: the bentofile's own")
    parser.add_argument("--registry", default="", help="registry and owner before every name")
    parser.add_argument(
        "--apply", default="", metavar="IMAGE@DIGEST", help="add the tags to this pushed image"
    )


def work(given: argparse.Namespace) -> None:
    """Print an image's tags, or add them to it."""
    spec = specs.load(given.bento)
    platform = platforms.get(given.platform or spec.platforms[0])
    repository = build.repository(spec.name, given.registry)
    names = [f"{repository}:{tag}" for tag in tags(platform.name)]
    if given.apply:
        docker.ready()
        apply(given.apply, names)
    result("\n".join(names))


def tags(platform: str) -> list[str]:
    """Return the tags of an image of the commit that is checked out.

    A release candidate gets none of its series.
    """
    if changed := git.call("status", "--porcelain", "--", *_INPUTS):
        raise CiError(f"commit what differs, so that a tag can name it: {changed.split()[1]}")
    found = [f"{platform}-{git.call('rev-parse', 'HEAD')[:12]}"]
    if git.call("rev-parse", "--abbrev-ref", "HEAD") == DEFAULT_BRANCH:
        day = git.call("show", "--no-patch", "--format=%cs", "HEAD")
        found = [platform, *found, f"{platform}-{day}"]
    for tag in git.call("tag", "--points-at", "HEAD").split():
        if release := _RELEASE.fullmatch(tag):
            found.append(f"{release['number']}{release['candidate']}-{platform}")
            if not release["candidate"]:
                found.append(f"{release['series']}-{platform}")
    return found


def apply(image: str, names: list[str]) -> None:
    """Add the tags to a pushed image; each then names the very same digest."""
    repository, _, digest = image.partition("@")
    if not digest:
        raise CiError(f"--apply {image}: names no digest; tags are given to what was tested")
    for name in names:
        if name.rpartition(":")[0] != repository:
            raise CiError(f"--apply {image}: is in another repository than {name}")
    # An index around the image would have another digest than what was tested and signed.
    docker.call(
        *("buildx", "imagetools", "create", "--prefer-index=false"),
        *(f"--tag={name}" for name in names),
        image,
    )
    for name in names:
        if (found := docker.digest(name)) != digest:
            raise CiError(f"{name} is {found}, not {digest}: something else pushed to it meanwhile")
    say(f"{digest} has {len(names)} more tags")
