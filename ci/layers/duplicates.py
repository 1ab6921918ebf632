"""Bytes that an image carries for nothing: content that two layers hold, and what no one sees."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Final

from ci.layers.contents import BIG

if TYPE_CHECKING:
    from ci.layers.filesystem import FileSystem
    from ci.layers.image import File, Image, Layer

_PACKAGE: Final = re.compile(r".+/(?:site|dist)-packages/(?P<package>[^/]+)/")


@dataclasses.dataclass(frozen=True)
class Waste:
    """A big file for nothing: it is in `layer`, and `other` holds it too, or hides it.

    `path` is where it is in `layer`, `other_path` what `other` has.
    """

    layer: Layer
    path: str
    other: Layer
    other_path: str
    bytes: int
    hidden: bool

    @property
    def is_carried_by_two_packages(self) -> bool:
        """Tell whether it is the same file in two Python packages, as their wheels have it."""
        here, there = _PACKAGE.match(self.path), _PACKAGE.match(self.other_path)
        return not self.hidden and bool(here and there and here["package"] != there["package"])


def find(image: Image, seen: FileSystem) -> list[Waste]:
    """Return what is there for nothing, the largest first; a file is named once.

    A copy is charged to the upper layer; a file that is hidden, to the layer that holds it.
    """
    first: dict[str, tuple[Layer, File]] = {}
    found: dict[tuple[int, str], Waste] = {}
    for layer in image.layers:
        for file in layer.files:
            if not file.digest:
                continue
            below, original = first.setdefault(file.digest, (layer, file))
            if below is not layer:
                found[layer.number, file.path] = Waste(
                    layer, file.path, below, original.path, file.bytes, hidden=False
                )
    for lost in seen.hidden:
        placed = lost.placed
        where = placed.layer.number, placed.file.path
        covered = any(
            waste.other is placed.layer and waste.other_path == placed.file.path
            for waste in found.values()
        )
        if placed.file.bytes > BIG and where not in found and not covered:
            found[where] = Waste(
                placed.layer,
                placed.file.path,
                lost.by,
                placed.file.path,
                placed.file.bytes,
                hidden=True,
            )
    return sorted(found.values(), key=lambda waste: -waste.bytes)
