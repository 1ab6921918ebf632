"""What is measured of images, as one process passes it to the other."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

if TYPE_CHECKING:
    from pathlib import Path

OURS, STOCK, SEED = CONTESTANTS = ("Bentovox", "stock BentoML", "one Dockerfile")

CHANGES = COLD, NOTHING, CODE, DEPENDENCY, GROUP, PATCH = (
    "all, empty engine",
    "nothing",
    "code",
    "one dependency",
    "one wheel group",
    "patched base image",
)
WARM, EMPTIED = "code, pushed from a warm engine", "code, pushed from an emptied engine"


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of an image: what it mostly is, and whether it is the base's."""

    contents: str
    is_base: bool
    raw_bytes: int
    compressed_bytes: int


@dataclasses.dataclass(frozen=True)
class Size:
    """One contestant's image; `failed` are the gates that it fails, with their first fault."""

    contestant: str
    layers: list[Layer]
    duplicate_bytes: int
    failed: dict[str, str]

    @property
    def raw_bytes(self) -> int:
        """Return what all layers weigh unpacked."""
        return sum(layer.raw_bytes for layer in self.layers)

    @property
    def compressed_bytes(self) -> int:
        """Return what all layers weigh in a registry."""
        return sum(layer.compressed_bytes for layer in self.layers)


@dataclasses.dataclass(frozen=True)
class Turn:
    """One build after one change.

    `pack_s` is what comes before docker is started, `build_s` what `docker buildx build` took.
    `pushed_bytes` is what the registry grew by; None where it took a cache as well.
    """

    contestant: str
    change: str
    pack_s: float
    build_s: float
    pushed_bytes: int | None = None

    @property
    def seconds(self) -> float:
        """Return how long it took from the change to the image."""
        return self.pack_s + self.build_s


@dataclasses.dataclass(frozen=True)
class Kept:
    """How many layers kept their digests when the base image was patched."""

    app: int
    of_app: int
    base: int
    of_base: int


@dataclasses.dataclass(frozen=True)
class Measured:
    """All that one run measured."""

    bento: str
    platform_bytes: int
    load: float
    sizes: list[Size] = dataclasses.field(default_factory=list)
    turns: list[Turn] = dataclasses.field(default_factory=list)
    kept: list[Kept] = dataclasses.field(default_factory=list)

    def of(self, contestant: str, change: str) -> list[Turn]:
        """Return the turns of a contestant after one change."""
        return [
            turn for turn in self.turns if turn.contestant == contestant and turn.change == change
        ]

    def size(self, contestant: str) -> Size:
        """Return a contestant's image."""
        return next(size for size in self.sizes if size.contestant == contestant)


_JSON = TypeAdapter(Measured)


def save(measured: Measured, path: Path) -> None:
    """Write it as JSON."""
    path.write_bytes(_JSON.dump_json(measured, indent=2))


def load(path: Path) -> Measured:
    """Return what `save` wrote."""
    return _JSON.validate_json(path.read_bytes())
