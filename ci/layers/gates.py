"""What an image must be before it is shipped; a fault names the layer, the files and the remedy.

Whether each package is there once, as it is locked, is checked where packages are installed
(bentos/bases/wheels.py).
"""

from __future__ import annotations

import collections
import dataclasses
import posixpath
import re
import textwrap
from typing import TYPE_CHECKING, Final

from ci import sizes, specs
from ci.layers.filesystem import FileSystem, find_waste
from ci.layers.image import BASE_NAME, BUDGET, PLATFORM_LAYERS, TORCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci.layers.filesystem import Waste
    from ci.layers.image import Image, Layer

RAW_LIMIT: Final = 2 * sizes.GIB

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
_CACHE: Final = re.compile(
    r"(?:root|home/[^/]+)/\.cache/.+|var/cache/apt/archives/.+\.deb|"
    r"(?:.*/)?\.cache/(?:pip|uv)/.+"
)


@dataclasses.dataclass(frozen=True)
class Look:
    """An image with what the gates look at: its final file system and its waste."""

    image: Image
    seen: FileSystem
    waste: list[Waste]

    @classmethod
    def at(cls, image: Image) -> Look:
        """Put an image's layers together once, for all gates."""
        seen = FileSystem(image)
        return cls(image, seen, find_waste(image, seen))

    def is_ours(self, layer: Layer) -> bool:
        """Tell whether we made a layer: those of the platform's image are not ours to change."""
        theirs = self.image.config.labels.get(PLATFORM_LAYERS, "")
        return layer.number > (int(theirs) if theirs.isdigit() else 0)


@dataclasses.dataclass(frozen=True)
class Gate:
    """One gate; a base, which is no bento's image, need not pass those that are `of_bentos`."""

    name: str
    faults: Callable[[Look], Iterator[str]]
    of_bentos: bool = False


def judge(look: Look) -> dict[str, list[str]]:
    """Return the faults that each gate found which an image must pass; none if it passes."""
    is_bento = BASE_NAME in look.image.config.labels
    return {gate.name: [*gate.faults(look)] for gate in GATES if is_bento or not gate.of_bentos}


def raw_layers(look: Look) -> Iterator[str]:
    """Yield the layers of 2 GiB or more: registries and runtimes handle them badly."""
    for layer in look.image.layers:
        if layer.raw_bytes >= RAW_LIMIT and look.is_ours(layer):
            yield (
                f"{name(layer)} is {sizes.shown(layer.raw_bytes)} raw, most of it "
                f"{_heaviest(layer)}; split it in bentos/bases/groups.toml"
            )


def budget(look: Look) -> Iterator[str]:
    """Yield a fault if the app part is larger, compressed, than its bentofile allows."""
    said = look.image.config.labels.get(BUDGET, "")
    if not said.isdigit():
        yield f"there is no label {BUDGET}; build it with `python -m ci image`"
        return
    if look.image.app_bytes > int(said) * sizes.MIB:
        heaviest = max(look.image.app, key=lambda layer: layer.compressed_bytes)
        yield (
            f"the app part is {sizes.shown(look.image.app_bytes)} compressed, its budget "
            f"{said} MiB; the heaviest is {name(heaviest)} with {_heaviest(heaviest)}: move "
            f"packages into a group of bentos/bases/groups.toml, or raise {BUDGET} in the bentofile"
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
        first = wasted[0]
        total = sizes.shown(sum(waste.bytes for waste in wasted))
        files = _first(
            [
                waste.path
                if waste.path == waste.other_path
                else f"{waste.path} (there {waste.other_path})"
                for waste in wasted
            ]
        )
        if first.hidden:
            yield (
                f"{name(first.layer)} has {total} that {name(first.other)} hides: {files}; "
                "remove it in the instruction that brings it"
            )
        else:
            yield (
                f"{name(first.layer)} has {total} that {name(first.other)} has already: "
                f"{files}; install or copy it in one of them only, or bring the packages that both "
                "carry it into one group of bentos/bases/groups.toml"
            )


def one_torch(look: Look) -> Iterator[str]:
    """Yield a fault unless the one torch is the base's and the locked one, or none is wanted."""
    wanted = look.image.config.labels.get(TORCH)
    if wanted is None:
        yield f"there is no label {TORCH}; build it with `python -m ci image`"
        return
    matches = ((_TORCH.fullmatch(path), layer) for path, (_, layer) in look.seen.files.items())
    found = [(match["version"], match["site"], layer) for match, layer in matches if match]
    places = " and ".join(f"{version} in {site} ({name(layer)})" for version, site, layer in found)
    if not wanted and found:
        yield f"torch is {places}, and the lock has none: find what brings it and lock again"
    if wanted and len(found) != 1:
        yield (
            f"torch is there {len(found)} times{': ' if places else ''}{places}; the base must "
            "have the only one (bentos/bases/groups.toml)"
        )
    for version, site, layer in found if wanted else ():
        if version != wanted.partition("+")[0]:
            yield (
                f"torch is {version} in {site}, the lock says {wanted}: build the base again, or "
                "`nox -s lock`"
            )
        if layer.number > look.image.shared:
            yield (
                f"torch is in the app part: {site} ({name(layer)}); it belongs in the base, which "
                "other images share"
            )


def not_root(look: Look) -> Iterator[str]:
    """Yield a fault if the image runs as root."""
    user = look.image.config.user
    if user.partition(":")[0] in {"", "0", "root"}:
        yield f"the user is {user or 'not set'}, so it runs as root: USER 10001:10001"


def healthy(look: Look) -> Iterator[str]:
    """Yield a fault if nothing checks whether a container is healthy."""
    if look.image.config.healthcheck[:1] in {(), ("NONE",)}:
        yield "there is no HEALTHCHECK: the base has one; do not turn it off"


def no_compiler(look: Look) -> Iterator[str]:
    """Yield the compilers on PATH; those inside Python packages compile kernels and may stay."""
    said = look.image.config.environment.get("PATH", "").split(":")
    folders = {*_PATH, *(folder.strip("/") for folder in said)}
    found = collections.defaultdict(list)
    for path, (_, layer) in look.seen.files.items():
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
            total = sizes.shown(sum(file.bytes for file in found))
            yield (
                f"{name(layer)} has {total} of a package manager's cache: "
                f"{_first([file.path for file in found])}; use RUN --mount=type=cache"
            )


def no_secret(look: Look) -> Iterator[str]:
    """Yield variables that look like secrets: whoever has the image can read them."""
    for variable, value in look.image.config.environment.items():
        if specs.is_secret(variable, value):
            yield (
                f"the variable {variable} looks like a secret; pass it as a file when the "
                "container starts, and revoke this one"
            )


GATES: Final = (
    Gate("every layer below 2 GiB raw", raw_layers),
    Gate("app part within its budget", budget, of_bentos=True),
    Gate("nothing over 1 MiB twice", nothing_twice),
    Gate("one torch, the base's, as locked", one_torch, of_bentos=True),
    Gate("not root", not_root, of_bentos=True),
    Gate("health check", healthy),
    Gate("no compiler", no_compiler),
    Gate("no package manager's cache", no_cache),
    Gate("no secret in the environment", no_secret),
)


def name(layer: Layer) -> str:
    """Return how a fault names a layer: its number and the instruction that made it."""
    made = layer.created_by.removesuffix("# buildkit")
    short = textwrap.shorten(made, _INSTRUCTION, placeholder="...")
    return f"layer {layer.number} ({short or layer.digest[7:19]})"


def _heaviest(layer: Layer) -> str:
    largest = layer.largest_directories(_NAMED)
    return ", ".join(f"{path} {sizes.shown(count)}" for path, count in largest)


def _first(paths: list[str]) -> str:
    more = len(paths) - _NAMED
    return ", ".join(paths[:_NAMED]) + (f" and {more} more" if more > 0 else "")
