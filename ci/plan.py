"""`python -m ci plan`: which images a change touches, and which bases they stand on.

    python -m ci plan                     what this branch changes since it left main
    python -m ci plan --base v1.2.0       what changed since a release
    python -m ci plan --all               every bento on each of its platforms

An image is built again if something that it is made of changed: its bentofile and its folder, its
lock for that platform, what its globs include of services/, its platform's table, the bases, the
modules of ci/ that build, or what tests it. The table names the file. Bentos are those of the
working tree. With --github the revisions come from the event (a tag, a schedule or a start by hand
builds all images), and `matrix`, `bases` and `any` become the step's outputs.
"""

from __future__ import annotations

import dataclasses
import tomllib
from typing import TYPE_CHECKING, Any, Final

import pathspec

from ci import git, github, groups, naming, platforms, specs
from ci.paths import ROOT
from ci.terminal import result

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from ci.specs import Spec

_PLATFORMS: Final = "bentos/platforms.toml"
_TOOLS_LOCK: Final = "ci/locks/dev.txt"
_TOOLS: Final = ("bentoml", "uv")
"""The packages of that lock which affect images."""

BUILDERS: Final = frozenset(
    f"ci/{name}.py"
    for name in (
        *("base", "bento", "build", "buildx", "contexts", "docker", "groups", "image"),
        *("naming", "paths", "platforms", "specs", "uv"),
    )
)
"""The modules that build: those that `ci.image` imports, as a test checks."""

_OF_ALL: Final = (
    "bentos/Dockerfile",
    "bentos/bases/",
    ".github/actions/",
    ".github/workflows/_image.yml",
    ".github/workflows/images.yml",
    ".github/workflows/publish.yml",
    "tests/container.py",
    "tests/images/",
)
_COSYVOICE: Final = "ci/cosyvoice/"
_NEVER: Final = "0" * 40
"""The commit that GitHub names before the first push of a branch."""


@dataclasses.dataclass(frozen=True)
class Change:
    """The paths that changed, and what gives a file's text before; empty if it was not there."""

    paths: tuple[str, ...]
    before: Callable[[str], str]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One image to build, its base's stage, and the changed paths that call for it."""

    bento: str
    platform: str
    base: str
    why: tuple[str, ...]

    @property
    def because(self) -> str:
        """Return the first reason, and how many more there are."""
        more = len(self.why) - 1
        return f"{self.why[0]} and {more} more" if more else self.why[0]


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
    change = None if given.all or not since else _change(since, given.head)
    wanted = plan(change)
    if given.github:
        matrix = {"include": images(wanted, given.registry)}
        below = {"include": bases(wanted, given.registry)}
        github.outputs({"matrix": matrix, "bases": below, "any": bool(wanted)})
    result(table(wanted))


def plan(change: Change | None) -> list[Wanted]:
    """Return the images that a change touches, all of them for None.

    Raises:
        CiError: a spec or a lock is not what it may be.
    """
    found = []
    for name in specs.names():
        spec = specs.load(name)
        for platform in spec.platforms:
            why = ("all are asked for",) if change is None else tuple(_why(spec, platform, change))
            if why:
                found.append(Wanted(name, platform, spec.base(platform), why))
    return found


def images(wanted: list[Wanted], registry: str = "") -> list[dict[str, str]]:
    """Return the images as a workflow's matrix takes them, with their caches and reasons."""
    return [
        {
            "bento": one.bento,
            "platform": one.platform,
            "cache": naming.cache(naming.repository(one.bento, registry), one.platform),
            "base-cache": naming.cache(naming.base_repository(one.base, registry), one.platform),
            "why": one.because,
        }
        for one in wanted
    ]


def bases(wanted: list[Wanted], registry: str = "") -> list[dict[str, str]]:
    """Return the bases of these images, each once, with their caches."""
    return [
        {
            "stage": stage,
            "platform": platform,
            "cache": naming.cache(naming.base_repository(stage, registry), platform),
        }
        for stage, platform in sorted({(one.base, one.platform) for one in wanted})
    ]


def table(wanted: list[Wanted]) -> str:
    """Return the images for a person."""
    if not wanted:
        return "Nothing that an image is made of changed."
    rows = [("bento", "platform", "base", "because of")]
    rows += [(one.bento, one.platform, one.base, one.because) for one in wanted]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _change(since: str, head: str) -> Change:
    paths = git.changed(since, head)
    start = git.call("merge-base", since, head)
    return Change(paths, lambda path: git.content(start, path))


def _since() -> str:
    """Return the revision before the event's change; empty if everything is to be built."""
    name, data = github.event()
    if name == "pull_request":
        return str(data["pull_request"]["base"]["sha"])
    if name == "push" and str(data["ref"]).startswith("refs/heads/"):
        before = str(data["before"])
        known = before != _NEVER and git.ask("cat-file", "-e", f"{before}^{{commit}}") is not None
        return before if known else ""
    return ""


def _why(spec: Spec, platform: str, change: Change) -> Iterator[str]:
    """Yield the changed paths that an image is made of."""
    lock = spec.lock_for(platform).relative_to(ROOT).as_posix()
    own = [spec.path.relative_to(ROOT).as_posix(), lock]
    included = pathspec.GitIgnoreSpec.from_lines(spec.data["include"])
    excluded = pathspec.GitIgnoreSpec.from_lines(spec.data.get("exclude", []))
    has_cosyvoice = "conformer" in spec.requirements(platform)
    for path in change.paths:
        if (
            path in own
            or path in BUILDERS
            or (included.match_file(path) and not excluded.match_file(path))
            or (path.startswith(f"bentos/{spec.name}/") and not _of_other(path, spec, platform))
            or (path.startswith(_OF_ALL) and not _of_other(path, spec, platform))
            or (path.startswith(_COSYVOICE) and has_cosyvoice)
            or (path == _PLATFORMS and _table_changed(platform, change))
            or (path == _TOOLS_LOCK and _tools_changed(change))
        ):
            yield path
        elif path in _beside(spec, platform):
            yield f"{path} (of the base)"


def _of_other(path: str, spec: Spec, platform: str) -> bool:
    """Tell whether a file's name says another platform, as a lock's does."""
    others = [name for name in {*spec.platforms, *platforms.load()} if name != platform]
    return any(f".{name}." in path.rpartition("/")[2] for name in others)


def _table_changed(platform: str, change: Change) -> bool:
    before = tomllib.loads(change.before(_PLATFORMS))
    after = tomllib.loads((ROOT / _PLATFORMS).read_text(encoding="utf-8"))
    return _shape(before, platform) != _shape(after, platform)


def _shape(table: dict[str, Any], platform: str) -> dict[str, Any]:
    """Return a platform's table without its description, which affects no image."""
    return {key: value for key, value in table.get(platform, {}).items() if key != "description"}


def _tools_changed(change: Change) -> bool:
    before = specs.read_lock_text(change.before(_TOOLS_LOCK), ROOT / _TOOLS_LOCK)
    after = specs.read_lock(ROOT / _TOOLS_LOCK)
    return any(before.get(tool) != after.get(tool) for tool in _TOOLS)


def _beside(spec: Spec, platform: str) -> set[str]:
    """Return the locks of the other bentos on the same base, if it has packages of theirs."""
    if not groups.load().stages.get(spec.base(platform)):
        return set()
    return {
        other.lock_for(platform).relative_to(ROOT).as_posix()
        for other in map(specs.load, specs.names())
        if other.name != spec.name
        and platform in other.platforms
        and other.base(platform) == spec.base(platform)
    }
