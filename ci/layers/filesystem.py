"""The file system that a container sees, and the bytes that an image carries for nothing."""

from __future__ import annotations

import dataclasses
import functools
import posixpath
import re
from typing import TYPE_CHECKING, Final

from ci.layers.image import BIG

if TYPE_CHECKING:
    from ci.layers.image import File, Image, Layer

_PACKAGE: Final = re.compile(r".+/(?:site|dist)-packages/(?P<package>[^/]+)/")


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


class FileSystem:
    """The layers on top of each other: `files` is what is left, `hidden` what is not.

    `files` has each file with the layer that it comes from.
    """

    def __init__(self, image: Image) -> None:
        """Apply an image's layers, their whiteouts included."""
        self.files: dict[str, tuple[File, Layer]] = {}
        self.hidden: list[Waste] = []
        for layer in image.layers:
            self._put(layer)

    def _put(self, layer: Layer) -> None:
        gone = {*layer.removed, *(file.path for file in layer.files)}
        no_directory = gone.union(layer.emptied)
        for path in [*self.files]:
            if path in gone or not no_directory.isdisjoint(_parents(path)):
                self._hide(path, layer)
        for file in layer.files:
            for parent in _parents(file.path):
                if parent in self.files:  # a file or a link, where now is a directory
                    self._hide(parent, layer)
            self.files[file.path] = file, layer

    def _hide(self, path: str, by: Layer) -> None:
        file, layer = self.files.pop(path)
        self.hidden.append(Waste(layer, path, by, path, file.bytes, hidden=True))


def find_waste(image: Image, seen: FileSystem) -> list[Waste]:
    """Return the big files that are there for nothing, the largest first, each once.

    A copy is charged to the upper layer, a hidden file to the layer that it is in.
    """
    first: dict[str, tuple[Layer, str]] = {}
    found: dict[tuple[int, str], Waste] = {}
    for layer in image.layers:
        for file in layer.files:
            if file.digest:
                below, path = first.setdefault(file.digest, (layer, file.path))
                if below is not layer:
                    copy = Waste(layer, file.path, below, path, file.bytes, hidden=False)
                    found[layer.number, file.path] = copy
    told = {(waste.other.number, waste.other_path) for waste in found.values()}
    for lost in seen.hidden:
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
