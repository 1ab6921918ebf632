"""`python -m ci plan`: which images a change touches, and which bases they stand on.

    python -m ci plan                     what this branch changes since it left main
    python -m ci plan --base v1.2.0       what changed since a release
    python -m ci plan --all               every bento on each of its platforms

An image is built again if something that it is made of changed: its bentofile and its folder, its
lock for that platform, what its globs include of services/, the platforms, the bases, the modules
of ci/, or what tests it. The table names the file. Bentos are those of the working tree. With
--github the revisions come from the event (a tag, a schedule or a start by hand builds all images),
and `matrix`, `bases` and `any` become the step's outputs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pathspec

from ci import build, git, platforms, specs
from ci.errors import CiError
from ci.paths import ROOT
from ci.specs import Spec
from ci.terminal import github, outputs, result

_UV: Final = "ci/locks/dev.txt"
"""The lock that has the version of uv which bases are made with, and much that no image has."""
_OF_ALL: Final = re.compile(
    r"bentos/(Dockerfile|platforms\.toml|bases/.*)|ci/\w+\.py|tests/(container\.py|images/.*)"
    rf"|\.github/(actions/.*|workflows/(_image|images|publish)\.yml)|{_UV}"
)
_COSYVOICE: Final = "ci/cosyvoice/"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One image to build, its base's stage, and the first changed path that calls for it."""

    bento: str
    platform: str
    base: str
    because: str


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.add_argument("--base", default="", metavar="REV", help="since when (default: main)")
    parser.add_argument("--head", default="HEAD", metavar="REV", help="until (default: HEAD)")
    parser.add_argument("--all", action="store_true", help="all images, whatever changed")
    parser.add_argument("--registry", default="", help="registry and owner before bases' names")
    parser.add_argument("--github", action="store_true", help="in a job of GitHub Actions")


def work(given: argparse.Namespace) -> None:
    """Print which images are to be built."""
    since = given.base or (_since() if given.github else "main")
    wanted = plan(None if given.all or not since else changed(since, given.head))
    if given.github:
        matrix = {"include": images(wanted, given.registry)}
        below = {"include": bases(wanted, given.registry)}
        outputs({"matrix": matrix, "bases": below, "any": bool(wanted)})
    result(table(wanted))


def changed(since: str, head: str) -> list[str]:
    """Return the paths that changed in `head` since it left `since`; of a rename, both.

    The lock with uv is one of them only if uv's version changed.
    """
    span = f"{git.commit(since)}...{git.commit(head)}"
    diff = ("diff", "--name-only", "--no-renames", "-z")
    found = git.call(*diff, span, "--", ".", f":!{_UV}")
    found += git.call(*diff, "-G^uv==", span, "--", _UV)
    return [path for path in found.split("\0") if path]


def plan(paths: Iterable[str] | None) -> list[Wanted]:
    """Return the images that changed paths touch, all of them for None."""
    found = []
    for spec in map(specs.load, specs.names()):
        for platform in spec.platforms:
            why = ["all are asked for"] if paths is None else [*_why(spec, platform, paths)]
            if why:
                more = f" and {len(why) - 1} more" if len(why) > 1 else ""
                found.append(Wanted(spec.name, platform, spec.base(platform), why[0] + more))
    return found


def images(wanted: list[Wanted], registry: str = "") -> list[dict[str, str]]:
    """Return the images as a workflow's matrix takes them."""
    return [
        {
            "bento": one.bento,
            "platform": one.platform,
            "cache": build.cache(one.bento, one.platform, registry),
            "base-cache": build.cache(f"base-{one.base}", one.platform, registry),
        }
        for one in wanted
    ]


def bases(wanted: list[Wanted], registry: str = "") -> list[dict[str, str]]:
    """Return the bases of these images, each once, with their caches."""
    return [
        {
            "stage": stage,
            "platform": platform,
            "cache": build.cache(f"base-{stage}", platform, registry),
        }
        for stage, platform in sorted({(one.base, one.platform) for one in wanted})
    ]


def table(wanted: list[Wanted]) -> str:
    """Return the images for a person."""
    if not wanted:
        return "Nothing that an image is made of changed."
    rows = [Wanted("bento", "platform", "base", "because of"), *wanted]
    return "\n".join(f"{one.bento:13} {one.platform:8} {one.base:9} {one.because}" for one in rows)


def _since() -> str:
    """Return the revision before the event's change; empty if everything is to be built."""
    name = github("EVENT_NAME")
    data = json.loads(Path(github("EVENT_PATH")).read_text(encoding="utf-8"))
    if name == "pull_request":
        return str(data["pull_request"]["base"]["sha"])
    if name == "push" and str(data["ref"]).startswith("refs/heads/"):
        with contextlib.suppress(CiError):  # none before a first push, or a forced one
            return git.commit(data["before"])
    return ""


def _why(spec: Spec, platform: str, paths: Iterable[str]) -> Iterator[str]:
    """Yield the changed paths that an image is made of."""
    bentofile = spec.path.relative_to(ROOT).as_posix()
    included = pathspec.GitIgnoreSpec.from_lines(spec.data["include"])
    excluded = pathspec.GitIgnoreSpec.from_lines(spec.data.get("exclude", []))
    has_cosyvoice = "conformer" in spec.requirements(platform)
    others = [f".{name}." for name in platforms.load() if name != platform]
    for path in paths:
        if any(other in Path(path).name for other in others):
            continue  # as of a lock
        if (
            path == bentofile
            or path.startswith(f"bentos/{spec.name}/")
            or _OF_ALL.fullmatch(path)
            or (included.match_file(path) and not excluded.match_file(path))
            or (path.startswith(_COSYVOICE) and has_cosyvoice)
        ):
            yield path
