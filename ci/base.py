"""`python -m ci base`: the shared bases that images stand on.

    python -m ci base build vllm --platform cuda13   build one base, or find it built already
    python -m ci base pin                            read the digests of the platforms' images
    python -m ci base held cuda13                    list what a platform's image has, for the locks

A base is named by what it is made of: `bentovox/base-vllm:cuda13-1f2e3d4c5b6a`. Nothing is built
where that tag exists already, here or in the registry. `bentovox/base-vllm:cuda13` is the same
image under the name that bentofiles use. `bentos/bases/groups.toml` says which package of the locks
is in which of its layers.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import functools
import hashlib
import json
import shutil
import tomllib
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Final

from ci import build, docker, platforms, specs
from ci.build import Options
from ci.errors import CiError
from ci.paths import BENTOS, BUILT, alone
from ci.platforms import Platform
from ci.terminal import result, say

FOLDER: Final = BENTOS / "bases"
_FILES: Final = {
    "wheels.py": "tools/usr/local/bin",
    "healthcheck.py": "checks/usr/local/bin",
    "prebuilt-cc": "checks/usr/local/bin",
    "prebuild.py": ".",
}
"""Where each script goes in the build context: whole trees, so that no folder's time slips in."""
_DEVEL: Final = "devel"


@dataclasses.dataclass(frozen=True)
class Groups:
    """The patterns of each wheel group, and the groups of each stage of the bases."""

    groups: dict[str, list[str]]
    bases: dict[str, list[str]]

    def group_of(self, package: str) -> str | None:
        """Return the first group that matches a package; None if the bento installs it itself."""
        for group, patterns in self.groups.items():
            if any(fnmatch.fnmatchcase(package, pattern) for pattern in patterns):
                return group
        return None


@functools.cache
def groups() -> Groups:
    """Return the table of `bentos/bases/groups.toml`."""
    table = FOLDER / "groups.toml"
    try:
        return Groups(**tomllib.loads(table.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise CiError(f"{table.name}: {error}") from error


def requirements(stage: str, platform: str) -> dict[str, dict[str, str]]:
    """Return what each group of a base installs: all that the bentos on that base want of it.

    Nothing that only other bases' bentos want: some libraries use others if they are installed, as
    transformers uses scikit-learn, and then need what those need.
    """
    found: dict[str, dict[str, str]] = {group: {} for group in groups().groups}
    for spec in map(specs.load, specs.names()):
        if platform in spec.platforms and spec.base(platform) == stage:
            for package, version in spec.requirements(platform).items():
                group = groups().group_of(package)
                if group and group in groups().bases.get(stage, ()):
                    found[group][package] = version
    return found


@dataclasses.dataclass(frozen=True)
class Base:
    """One base for one platform: its stage, what it is made of, and its names."""

    stage: str
    platform: Platform
    registry: str

    @property
    def has_torch(self) -> bool:
        """Tell whether it has torch, and so stands on the platform's image that has it."""
        return self.stage == _DEVEL or "torch" in groups().bases.get(self.stage, ())

    @functools.cached_property
    def fingerprint(self) -> str:
        """Return a hash of all that it is made of."""
        parts = [
            *self.arguments.values(),
            version("uv"),
            *((FOLDER / name).read_text(encoding="utf-8") for name in ("Dockerfile", *_FILES)),
            json.dumps(requirements(self.stage, self.platform.name)),
        ]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]

    @property
    def arguments(self) -> dict[str, str]:
        """Return what its Dockerfile is told of the platform."""
        return {
            "PLATFORM_IMAGE": (
                self.platform.reference if self.has_torch else self.platform.plain_reference
            ),
            "DEVEL_IMAGE": self.platform.devel_reference,
            "COMPILED_IN": "devel" if self.platform.cuda else "system",
            "STAGE": self.stage,
            "PYTHON": self.platform.python,
            "TORCH": self.platform.torch,
            "TORCH_FROM": self.platform.torch_from,
        }

    @property
    def reference(self) -> str:
        """Return the name that says what it is made of."""
        return f"{self.moving}-{self.fingerprint}"

    @property
    def moving(self) -> str:
        """Return the name that bentofiles use; it moves to the newest one."""
        return f"{build.repository(f'base-{self.stage}', self.registry)}:{self.platform.name}"


def find(stage: str, platform: Platform, registry: str = "") -> Base:
    """Return a base, built or not."""
    known = [*groups().bases, _DEVEL]
    if stage not in known:
        raise CiError(f"there is no base {stage!r}; there are {', '.join(known)}")
    return Base(stage, platform, registry)


def ensure(base: Base, options: Options, *, again: bool = False) -> float:
    """Build a base, unless it is here or in its registry; return the seconds that this took."""
    folder = BUILT / f"base-{base.stage}-{base.platform.name}"
    with alone(folder):
        return 0.0 if not again and _is_there(base, options) else _make(base, options, folder)


def _is_there(base: Base, options: Options) -> bool:
    if options.push:
        if docker.ask("buildx", "imagetools", "inspect", base.reference) is None:
            return False
        say(f"{base.reference} is in the registry")
        return True
    if not docker.inspect(base.reference):
        return False
    say(f"{base.reference} is here")
    docker.call("tag", base.reference, base.moving)
    return True


def _make(base: Base, options: Options, folder: Path) -> float:
    below = base.arguments["PLATFORM_IMAGE"]
    if "@" not in below:
        say(f"{below} is not pinned by a digest yet: `python -m ci base pin`")
    context = write_context(base, folder)
    say(f"Building {base.reference} on {below}")
    layers = len(docker.diff_ids(below))
    return build.build(
        [
            *options.arguments(base.reference, base.moving),
            f"--file={FOLDER / 'Dockerfile'}",
            f"--target={_DEVEL if base.stage == _DEVEL else 'base'}",
            # Gates judge only our own layers; a bento's image inherits the label.
            *([f"--label=bentovox.platform-layers={layers}"] if layers else []),
            *docker.variables(base.arguments, "--build-arg"),
            *build.wheels_context(base.platform),
            str(context),
        ]
    )


def write_context(base: Base, folder: Path) -> Path:
    """Write the build context of a base below a folder and return its path."""
    from uv import find_uv_bin  # noqa: PLC0415  only the environment `dev` has it

    context = folder / "context"
    shutil.rmtree(context, ignore_errors=True)
    (context / "groups").mkdir(parents=True)
    for name, place in _FILES.items():
        (context / place).mkdir(parents=True, exist_ok=True)
        shutil.copy2(FOLDER / name, context / place / name)
    shutil.copy2(find_uv_bin(), context / _FILES["wheels.py"] / "uv")
    for group, wanted in requirements(base.stage, base.platform.name).items():
        lines = "".join(f"{name}=={version}\n" for name, version in sorted(wanted.items()))
        (context / "groups" / f"{group}.txt").write_text(lines, encoding="utf-8")
    return build.named(context)


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    making = verbs.add_parser("build", help="build bases, or find them built already")
    stages = ", ".join([*groups().bases, _DEVEL])
    making.add_argument("stages", nargs="+", metavar="STAGE", help=stages)
    build.add_options(making)
    pinning = verbs.add_parser("pin", help="read the digests of the platforms' images")
    pinning.add_argument("platforms", nargs="*", metavar="PLATFORM", help="default: all")
    holding = verbs.add_parser("held", help="list what a platform's image has, for the locks")
    holding.add_argument("platform", metavar="PLATFORM")


def work(given: argparse.Namespace) -> None:
    """Build bases, pin what they stand on, or list what that has."""
    docker.ready()
    if given.action == "pin":
        _pin(given.platforms or platforms.load())
    elif given.action == "held":
        _hold(platforms.get(given.platform))
    else:
        options = build.options_of(given)
        platform = platforms.get(given.platform or "cpu")
        for stage in given.stages:
            base = find(stage, platform, options.registry)
            ensure(base, options, again=options.no_cache)
            result(base.reference)


def _pin(names: Iterable[str]) -> None:
    pinned = {
        name: {key: docker.digest(image) for key, image in platforms.get(name).unpinned.items()}
        for name in names
    }
    for name, digests in pinned.items():
        platforms.change(name, digests)
        result("\n".join(f"{name}.{key} {digest}" for key, digest in digests.items()))


def _hold(platform: Platform) -> None:
    script = (FOLDER / "wheels.py").read_text(encoding="utf-8")
    entry = ("--entrypoint=python3", platform.reference, "-", "holding")
    said = docker.call("run", "--rm", "-i", *entry, stdin=script)
    path = FOLDER / f"held.{platform.name}.txt"
    header = f"# What {platform.reference} has. Made by `python -m ci base held {platform.name}`.\n"
    path.write_text(header + said + "\n", encoding="utf-8")
    result(f"{path}: {len(said.splitlines())} packages; now run `nox -s lock`")
