"""What an image must be before it is shipped; a fault names the layer, the files and the remedy.

Whether each package is there once, as it is locked, is checked where packages are installed
(bentos/bases/wheels.py).
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import posixpath
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Final

from ci import specs
from ci.layers.image import BASE_NAME, BIG, GIB, MIB, File, Image, Layer, shown

RAW_LIMIT: Final = 2 * GIB
_BUDGET: Final = "bentovox.budget-mib"
_TORCH_LABEL: Final = "bentovox.torch"
_PLATFORM_LAYERS: Final = "bentovox.platform-layers"

_NAMED: Final = 3
_INSTRUCTION: Final = 50
_COMPILER: Final = re.compile(
    r"(?:[\w.-]+-linux-(?:gnu|musl)\w*-)?(?:gcc|g\+\+|cc|c\+\+|clang|clang\+\+)(?:-[\d.]+)?|nvcc"
)
_PATH: Final = (
    *("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin"),
    *("opt/venv/bin", "app/.venv/bin", "usr/local/cuda/bin"),
)
_TORCH: Final = re.compile(
    r"(?P<site>.+)/torch-(?P<version>[^-+/]+)(?:\+[^-/]+)?\.dist-info/METADATA"
)
_PACKAGE: Final = re.compile(r".+/(?:site|dist)-packages/(?P<package>[^/]+)/")
_CACHE: Final = re.compile(
    r"(?:root|home/[^/]+)/\.cache/.+|var/cache/apt/archives/.+\.deb|"
    r"(?:.*/)?\.cache/(?:pip|uv)/.+"
)


@dataclasses.dataclass(frozen=True)
class Waste:
    """A file that is of no use in `layer`, since `other` has it too, or hides it.

    `path` is its place in `layer`, `other_path` that in `other`.
    """

    layer: Layer
    path: str
    other: Layer
    other_path: str
    bytes: int
    hidden: bool

    @property
    def is_carried_by_two_packages(self) -> bool:
        """Tell whether two Python packages both carry it, in their wheels."""
        here, there = _PACKAGE.match(self.path), _PACKAGE.match(self.other_path)
        return not self.hidden and bool(here and there and here["package"] != there["package"])


class Look:
    """An image with what the gates look at, put together once.

    `files` is the file system that a container sees, each file with the layer that it comes from.
    `waste` is the big files that are there for nothing, the largest first, each once: a copy is
    charged to the upper layer, a hidden file to the layer that it is in.
    """

    def __init__(self, image: Image) -> None:
        self.image = image
        self.files: dict[str, tuple[File, Layer]] = {}
        self._hidden: list[Waste] = []
        for layer in image.layers:
            self._put(layer)
        self.waste = self._find_waste()

    def is_ours(self, layer: Layer) -> bool:
        """Tell whether we made a layer: those of the platform's image are not ours to change."""
        return layer.number > int(self.image.labels.get(_PLATFORM_LAYERS, 0))

    def _put(self, layer: Layer) -> None:
        new = {file.path: (file, layer) for file in layer.files}
        gone = {*layer.removed, *new}
        no_directory = gone.union(layer.emptied)
        directories = {parent for path in new for parent in _parents(path)}
        for path in [*self.files]:
            if path in gone or path in directories or not no_directory.isdisjoint(_parents(path)):
                file, below = self.files.pop(path)
                self._hidden.append(Waste(below, path, layer, path, file.bytes, hidden=True))
        self.files |= new

    def _find_waste(self) -> list[Waste]:
        first: dict[str, tuple[Layer, str]] = {}
        found: dict[tuple[int, str], Waste] = {}
        for layer in self.image.layers:
            for file in layer.files:
                below, path = first.setdefault(file.digest, (layer, file.path))
                if file.digest and below is not layer:
                    copy = Waste(layer, file.path, below, path, file.bytes, hidden=False)
                    found[layer.number, file.path] = copy
        told = {(waste.other.number, waste.other_path) for waste in found.values()}
        for lost in self._hidden:
            where = lost.layer.number, lost.path
            if lost.bytes > BIG and where not in told and where not in found:
                found[where] = lost
                told.add((lost.other.number, lost.other_path))
        return sorted(found.values(), key=lambda waste: -waste.bytes)


@functools.cache
def _parents(path: str) -> tuple[str, ...]:
    """Return the directories above a path, the nearest first; the root is the empty one."""
    above = posixpath.dirname(path)
    return (above, *_parents(above)) if path else ()


def judge(look: Look) -> dict[str, list[str]]:
    """Return the faults that each gate found which an image must pass; none if it passes.

    A base is no bento's image, and need not pass what only those must.
    """
    is_bento = BASE_NAME in look.image.labels
    return {
        gate: [*faults(look)]
        for gate, faults in GATES.items()
        if is_bento or faults not in (budget, one_torch, not_root)
    }


def raw_layers(look: Look) -> Iterator[str]:
    """Yield the layers of 2 GiB or more: registries and runtimes handle them badly."""
    for layer in look.image.layers:
        if layer.raw_bytes >= RAW_LIMIT and look.is_ours(layer):
            yield (
                f"{name(layer)} is {shown(layer.raw_bytes)} raw, most of it "
                f"{_heaviest(layer)}; split it in bentos/bases/groups.toml"
            )


def budget(look: Look) -> Iterator[str]:
    """Yield a fault if the app part is larger, compressed, than its bentofile allows."""
    said = look.image.labels.get(_BUDGET, "")
    if not said.isdigit():
        yield f"there is no label {_BUDGET}; build it with `python -m ci image`"
        return
    if look.image.app_bytes > int(said) * MIB:
        heaviest = max(look.image.app, key=lambda layer: layer.compressed_bytes)
        yield (
            f"the app part is {shown(look.image.app_bytes)} compressed, its budget {said} MiB; the "
            f"heaviest is {name(heaviest)} with {_heaviest(heaviest)}: move packages into a group "
            f"of bentos/bases/groups.toml, or raise {_BUDGET} in the bentofile"
        )


def nothing_twice(look: Look) -> Iterator[str]:
    """Yield, for each pair of layers, the files over 1 MiB that are there for nothing.

    A file that two packages both carry is no fault: no layering can remove it.
    """
    pairs = collections.defaultdict(list)
    for waste in look.waste:
        if look.is_ours(waste.layer) and not waste.is_carried_by_two_packages:
            pairs[waste.layer.number, waste.other.number, waste.hidden].append(waste)
    for wasted in pairs.values():
        first, total = wasted[0], shown(sum(waste.bytes for waste in wasted))
        there = (f" (there {w.other_path})" if w.path != w.other_path else "" for w in wasted)
        files = _first([w.path + elsewhere for w, elsewhere in zip(wasted, there, strict=True)])
        how, remedy = "hides", "remove it in the instruction that brings it"
        if not first.hidden:
            how = "has already"
            remedy = (
                "install or copy it in one of them only, or bring the packages that both carry it "
                "into one group of bentos/bases/groups.toml"
            )
        yield f"{name(first.layer)} has {total} that {name(first.other)} {how}: {files}; {remedy}"


def one_torch(look: Look) -> Iterator[str]:
    """Yield a fault unless the one torch is the base's and the locked one, or none is wanted."""
    locked = look.image.labels.get(_TORCH_LABEL)
    if locked is None:
        yield f"there is no label {_TORCH_LABEL}; build it with `python -m ci image`"
        return
    matches = ((_TORCH.fullmatch(path), layer) for path, (_, layer) in look.files.items())
    found = [(match["version"], match["site"], layer) for match, layer in matches if match]
    wanted = [locked.partition("+")[0]] if locked else []
    in_app = [layer for _, _, layer in found if layer.number > look.image.shared]
    if in_app or [version for version, _, _ in found] != wanted:
        places = " and ".join(f"{version} in {site} ({name(at)})" for version, site, at in found)
        yield (
            f"torch is {places or 'not there'}, and must be "
            f"{f'{locked}, once and in the base' if locked else 'nowhere'}, as the lock says: look "
            "into bentos/bases/groups.toml, build the base again, or `nox -s lock`"
        )


def not_root(look: Look) -> Iterator[str]:
    """Yield a fault if the image runs as root."""
    user = look.image.config.get("User") or ""
    if user.partition(":")[0] in {"", "0", "root"}:
        yield f"the user is {user or 'not set'}, so it runs as root: USER 10001:10001"


def healthy(look: Look) -> Iterator[str]:
    """Yield a fault if nothing checks whether a container is healthy."""
    if (look.image.config.get("Healthcheck") or {}).get("Test") in (None, [], ["NONE"]):
        yield "there is no HEALTHCHECK: the base has one; do not turn it off"


def no_compiler(look: Look) -> Iterator[str]:
    """Yield the compilers on PATH; those inside Python packages compile kernels and may stay."""
    said = look.image.environment.get("PATH", "").split(":")
    folders = {*_PATH, *(folder.strip("/") for folder in said)}
    found = collections.defaultdict(list)
    for path, (_, layer) in look.files.items():
        folder, command = posixpath.split(path)
        if folder in folders and _COMPILER.fullmatch(command):
            found[layer.number].append(path)
    for number, paths in found.items():
        yield (
            f"{name(look.image.layers[number - 1])} has a compiler: {_first(sorted(paths))}; "
            "compile in the stage `devel` and copy out what was made"
        )


def no_cache(look: Look) -> Iterator[str]:
    """Yield what package managers left behind, in any layer: hidden bytes are pushed too."""
    for layer in look.image.layers:
        found = [file for file in layer.files if _CACHE.fullmatch(file.path)]
        if found and look.is_ours(layer):
            total = shown(sum(file.bytes for file in found))
            yield (
                f"{name(layer)} has {total} of a package manager's cache: "
                f"{_first([file.path for file in found])}; use RUN --mount=type=cache"
            )


def no_secret(look: Look) -> Iterator[str]:
    """Yield variables that look like secrets: whoever has the image can read them."""
    for variable, value in look.image.environment.items():
        if specs.is_secret(variable, value):
            yield (
                f"the variable {variable} looks like a secret; pass it as a file when the "
                "container starts, and revoke this one"
            )


GATES: Final[dict[str, Callable[[Look], Iterator[str]]]] = {
    "every layer below 2 GiB raw": raw_layers,
    "app part within its budget": budget,
    "nothing over 1 MiB twice": nothing_twice,
    "one torch, the base's, as locked": one_torch,
    "not root": not_root,
    "health check": healthy,
    "no compiler": no_compiler,
    "no package manager's cache": no_cache,
    "no secret in the environment": no_secret,
}


def name(layer: Layer) -> str:
    """Return how a fault names a layer: its number and the instruction that made it."""
    made = layer.created_by.removesuffix("# buildkit")
    short = textwrap.shorten(made, _INSTRUCTION, placeholder="...")
    return f"layer {layer.number} ({short or layer.digest[7:19]})"


def _heaviest(layer: Layer) -> str:
    return ", ".join(f"{path} {shown(count)}" for path, count in layer.largest)


def _first(paths: list[str]) -> str:
    more = len(paths) - _NAMED
    return ", ".join(paths[:_NAMED]) + (f" and {more} more" if more > 0 else "")
