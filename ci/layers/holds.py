"""What a layer holds, in two or three words: from what is in it, else from how it was made."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ci.layers.image import Layer

_SITE: Final = re.compile(r"lib/python3[\d.]*/(?:site|dist)-packages(?:/(?P<package>[^/]+))?$")
_SHARE: Final = 0.12
_NAMES: Final = 3
_PUT: Final = re.compile(r"(?:COPY|ADD)\s+(?:--\S+\s+)*(?P<source>\S+)\s+(?P<target>\S+)")
_SOURCES: Final = {
    "bento": "code",
    "parts/models": "shipped models",
    "parts/cosyvoice": "CosyVoice",
    "parts/baked": "baked models",
}
_OF_SYSTEM: Final = re.compile(r"(?:etc|usr/lib)/os-release")


def holds(layer: Layer) -> str:
    """Return what a layer holds: `torch, sympy`, `system packages`, `code`, `nothing`."""
    put = _PUT.search(layer.created_by)
    if put and put["source"] in _SOURCES:
        said = _SOURCES[put["source"]]
        return said if layer.files else f"no {said}"
    if not layer.files:
        return "nothing"
    packages = _packages(layer)
    if packages:
        return ", ".join(packages)
    if any(_OF_SYSTEM.fullmatch(file.path) for file in layer.files):
        return "operating system"
    if re.search(r"\b(?:apt|apt-get|dnf|apk)\b", layer.created_by):
        return "system packages"
    largest = layer.largest_files(1)[0].path
    return largest if len(layer.files) == 1 else f"{largest} and more"


def _packages(layer: Layer) -> list[str]:
    """Return the Python packages that make up most of a layer, or how many there are."""
    total = sum(file.bytes for file in layer.files)
    inside = 0
    found: dict[str, int] = {}
    for path, count in layer.largest_directories(len(layer.files)):
        match = _SITE.search(path)
        if match:
            inside += count
        if match and match["package"]:
            package = match["package"].removesuffix(".libs").lower()
            found[package] = found.get(package, 0) + count
    if not found or inside < total / 2:
        return []
    named = sorted(found, key=lambda package: -found[package])
    large = [package for package in named if found[package] >= total * _SHARE]
    count = sum(1 for package in named if package.endswith(".dist-info"))
    return large[:_NAMES] or [f"{count} packages"]
