"""What is measured of images, as one process passes it to the other."""

from __future__ import annotations

import dataclasses

from pydantic import TypeAdapter

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
    """One contestant's image; `failed` are the gates that it fails."""

    layers: list[Layer]
    duplicate_bytes: int
    failed: list[str]


@dataclasses.dataclass(frozen=True)
class Turn:
    """One build after one change.

    `pack_s` is what comes before docker is started, `build_s` what `docker buildx build` took.
    `pushed_bytes` is what the registry grew by.
    """

    contestant: str
    change: str
    pack_s: float
    build_s: float
    pushed_bytes: int

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


@dataclasses.dataclass
class Measured:
    """All that one run measured; `sizes` by contestant."""

    bento: str
    platform_bytes: int
    load: float
    sizes: dict[str, Size] = dataclasses.field(default_factory=dict)
    turns: list[Turn] = dataclasses.field(default_factory=list)
    kept: Kept | None = None

    def of(self, contestant: str, change: str) -> list[Turn]:
        """Return the turns of a contestant after one change."""
        return [one for one in self.turns if (one.contestant, one.change) == (contestant, change)]


JSON = TypeAdapter(Measured)
