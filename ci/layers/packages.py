"""The Python packages that an image's metadata names, and where they are."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Final

from ci import naming

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.layers.filesystem import FileSystem
    from ci.layers.image import Layer

_METADATA: Final = re.compile(
    r"(?P<site>.+)/(?P<name>[A-Za-z0-9._]+)-(?P<version>[^-/]+)(?:-py[\d.]+)?"
    r"\.(?:dist-info/METADATA|egg-info(?:/PKG-INFO)?)"
)
_VISIBLE: Final = re.compile(
    r"(?:opt/venv|app/\.venv|usr/local)/lib/python3[\d.]*/(?:site|dist)-packages"
)


@dataclasses.dataclass(frozen=True)
class Package:
    """A package in one place; `version` is its public part (2.13.0+cu130 is 2.13.0)."""

    name: str
    version: str
    site: str
    layer: Layer

    @property
    def is_visible(self) -> bool:
        """Tell whether a service finds it: in its environment or beside the base's Python."""
        return _VISIBLE.fullmatch(self.site) is not None


def find(seen: FileSystem) -> Iterator[Package]:
    """Yield every package in the final file system, wherever it is."""
    for path, placed in seen.files.items():
        match = _METADATA.fullmatch(path)
        if match:
            yield Package(
                name=naming.distribution(match["name"]),
                version=match["version"].partition("+")[0],
                site=match["site"],
                layer=placed.layer,
            )
