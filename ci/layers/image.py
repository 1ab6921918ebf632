"""An image as this package sees it: its configuration, its layers, and the files of each."""

from __future__ import annotations

import collections
import dataclasses
import re
from typing import Final

from ci import sizes

BASE_NAME: Final = "org.opencontainers.image.base.name"
BENTO: Final = "bentovox.bento"
PLATFORM: Final = "bentovox.platform"
TORCH: Final = "bentovox.torch"
BUDGET: Final = "bentovox.budget-mib"
PLATFORM_LAYERS: Final = "bentovox.platform-layers"

BIG: Final = sizes.MIB
"""Only files larger than this count as waste."""

_SITE: Final = re.compile(r"(?:.*/)?lib/python3[\d.]*/(?:site|dist)-packages")
_DEPTH: Final = 3


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """One entry of a layer that is no directory; `digest` is a big one's SHA-256, else empty."""

    path: str
    bytes: int
    digest: str = ""


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a layer changes: the size of its archive, its files, and what it takes away.

    `removed` are paths of the layers below, `emptied` directories whose content there is hidden.
    """

    raw_bytes: int
    files: tuple[File, ...]
    removed: tuple[str, ...]
    emptied: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Layer(Contents):
    """One layer: what it changes, its place from the bottom (the first is 1), and its blob.

    `compressed_bytes` is the blob as it is pushed.
    """

    number: int
    digest: str
    diff_id: str
    compressed_bytes: int
    created_by: str

    def largest_directories(self, count: int) -> list[tuple[str, int]]:
        """Return the directories with most of its bytes; a Python package counts as one."""
        total = collections.Counter[str]()
        for file in self.files:
            total[directory(file.path)] += file.bytes
        return total.most_common(count)


@dataclasses.dataclass(frozen=True)
class Config:
    """How an image says that it is to be run."""

    user: str
    healthcheck: tuple[str, ...]
    labels: dict[str, str]
    environment: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Image:
    """One image; its first `shared` layers are its base's, the rest is the app part."""

    name: str
    config: Config
    layers: tuple[Layer, ...]
    shared: int = 0

    @property
    def app(self) -> tuple[Layer, ...]:
        """Return the layers that it adds to its base."""
        return self.layers[self.shared :]

    @property
    def app_bytes(self) -> int:
        """Return what it adds to its base, compressed."""
        return sum(layer.compressed_bytes for layer in self.app)

    @property
    def compressed_bytes(self) -> int:
        """Return what all its layers weigh in a registry."""
        return sum(layer.compressed_bytes for layer in self.layers)

    @property
    def raw_bytes(self) -> int:
        """Return what all its layers weigh unpacked."""
        return sum(layer.raw_bytes for layer in self.layers)


def directory(path: str) -> str:
    """Return the directory that a file counts for: its package, or the first three levels."""
    site = _SITE.match(path)
    if site:
        package = path.find("/", site.end() + 1)
        return site.group() if package < 0 else path[:package]
    parents = path.split("/")[:-1]
    return "/".join(parents[:_DEPTH]) or "/"
