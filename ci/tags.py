r"""`python -m ci tags`: the tags that an image gets.

    python -m ci tags chat --platform cuda13
    python -m ci tags chat --platform cuda13 --registry ghcr.io/me \
        --apply ghcr.io/me/bentovox/chat@sha256:...

The platform's name alone moves with the default branch; the others add to it the image's content,
the commit, the day, or a release's number: cuda13, cuda13-1f2e3d4c5b6a, cuda13-0123456789ab,
cuda13-2026-11-24, 1.2.3-cuda13, 1.2-cuda13. There is no `latest`, which would not name the
platform. --apply adds the tags, in the registry, to an image that was tested by its digest.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Final

from ci import bento, contexts, docker, git, naming, platforms, specs
from ci.errors import CiError
from ci.terminal import result, say

if TYPE_CHECKING:
    import argparse

DEFAULT_BRANCH: Final = "main"
_INPUTS: Final = ("LICENSE", "bentofile.yaml", "bentos", "ci", "services")
"""What images are made of; uncommitted changes elsewhere do not matter."""
_RELEASED: Final = ("describe", "--tags", "--exact-match", "--match=v[0-9]*", "HEAD")
_RELEASE: Final = re.compile(r"v(?P<number>(?P<series>\d+\.\d+)\.\d+)(?P<candidate>[-.\w]*)")


@dataclasses.dataclass(frozen=True)
class Context:
    """What decides an image's tags.

    `version` is a hash of the image's content. `commit` is empty if what images are made of differs
    from it, `release` is git's tag of that commit or empty, `day` is the commit's, and `is_default`
    tells whether it is on the default branch.
    """

    platform: str
    version: str
    commit: str
    release: str
    day: str
    is_default: bool


def tags(context: Context) -> list[str]:
    """Return all tags of an image; a release candidate gets no tag of its series."""
    platform = context.platform
    found = [platform] if context.is_default else []
    found.append(f"{platform}-{context.version}")
    if context.commit:
        found.append(f"{platform}-{context.commit[:12]}")
    if context.is_default:
        found.append(f"{platform}-{context.day}")
    if release := _RELEASE.fullmatch(context.release):
        found.append(f"{release['number']}{release['candidate']}-{platform}")
        if not release["candidate"]:
            found.append(f"{release['series']}-{platform}")
    return found


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
    if given.apply:
        docker.ready()
    with contexts.alone(bento.folder_of(spec, platform)):
        _, version = bento.make(spec, platform, given.registry)
    repository = naming.repository(spec.name, given.registry)
    names = [f"{repository}:{tag}" for tag in tags(context_of(platform.name, version))]
    if given.apply:
        apply(given.apply, names)
    result("\n".join(names))


def context_of(platform: str, version: str) -> Context:
    """Return what git says of the commit that is checked out.

    Raises:
        CiError: this is no repository of git.
    """
    head = git.commit("HEAD")
    clean = not git.call("status", "--porcelain", "--", *_INPUTS)
    return Context(
        platform=platform,
        version=version,
        commit=head if clean else "",
        release=(git.ask(*_RELEASED) or "") if clean else "",
        day=git.call("show", "--no-patch", "--format=%cs", "HEAD"),
        is_default=clean and git.call("rev-parse", "--abbrev-ref", "HEAD") == DEFAULT_BRANCH,
    )


def apply(image: str, names: list[str]) -> None:
    """Add the tags to a pushed image; each then names the very same digest.

    Raises:
        CiError: it is not named by a digest, is in another repository, or the registry refuses.
    """
    digest = image.partition("@")[2]
    if not digest:
        raise CiError(f"--apply {image}: names no digest; tags are given to what was tested")
    for name in names:
        if naming.untagged(name) != naming.untagged(image):
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
    say(f"{digest} has {len(names)} tags")
