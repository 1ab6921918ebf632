"""`bentos/bases/groups.toml` over the locks: which package is in which layer."""

from __future__ import annotations

import dataclasses
import fnmatch
import tomllib
from typing import TYPE_CHECKING, Final

from ci import specs
from ci.errors import CiError
from ci.paths import BENTOS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TABLE: Final = BENTOS / "bases" / "groups.toml"


@dataclasses.dataclass(frozen=True)
class Groups:
    """The patterns of each wheel group, and the groups of each stage of the bases."""

    patterns: dict[str, tuple[str, ...]]
    stages: dict[str, tuple[str, ...]]

    def group_of(self, package: str) -> str | None:
        """Return the first group that matches a package; None if the bento installs it itself."""
        for group, patterns in self.patterns.items():
            if any(fnmatch.fnmatchcase(package, pattern) for pattern in patterns):
                return group
        return None


def load(table: Path = TABLE) -> Groups:
    """Return the table.

    Raises:
        CiError: it is not TOML, or a stage names a group that is not there.
    """
    try:
        found = tomllib.loads(table.read_text(encoding="utf-8"))
        patterns = {name: tuple(entries) for name, entries in found["groups"].items()}
        stages = {name: tuple(entries) for name, entries in found["bases"].items()}
    except (tomllib.TOMLDecodeError, KeyError, AttributeError, OSError) as error:
        raise CiError(f"{table}: {error}") from error
    for stage, groups in stages.items():
        if unknown := [group for group in groups if group not in patterns]:
            raise CiError(f"{table.name}: {stage} names {unknown[0]!r}, which is no group")
    return Groups(patterns, stages)


def requirements(
    stage: str, platform: str, table: Groups | None = None
) -> dict[str, dict[str, str]]:
    """Return what each group of a base installs: all that the bentos on that base want of it.

    Nothing that only other bases' bentos want: some libraries use others if they are installed, as
    transformers uses scikit-learn, and then need what those need.

    Raises:
        CiError: two of the bentos want two versions of a package.
    """
    table = table or load()
    found: dict[str, dict[str, str]] = {group: {} for group in table.patterns}
    asked: dict[str, str] = {}
    for spec in _on(stage, platform):
        for package, version in spec.requirements(platform).items():
            group = table.group_of(package)
            if group not in table.stages.get(stage, ()):
                continue
            before = found[group].setdefault(package, version)
            if before != version:
                raise CiError(
                    f"{package} is {before} for {asked[package]} and {version} for {spec.name} on "
                    f"{platform}; `nox -s lock` brings them together"
                )
            asked[package] = spec.name
    return found


def _on(stage: str, platform: str) -> Iterable[specs.Spec]:
    for name in specs.names():
        spec = specs.load(name)
        if platform in spec.platforms and spec.base(platform) == stage:
            yield spec
