"""An image's layers as an aligned table, and what the gates said."""

from __future__ import annotations

import collections
import re
from typing import TYPE_CHECKING, Final

from ci import sizes
from ci.layers.image import BENTO, PLATFORM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ci.layers.gates import Look
    from ci.layers.image import Image, Layer

_PUT: Final = re.compile(r"(?:COPY|ADD)\s+(?:--\S+\s+)*(?P<source>\S+)\s")
_PARTS: Final = {
    "bento": "code",
    "parts/models": "shipped models",
    "parts/cosyvoice": "CosyVoice",
    "parts/baked": "baked models",
}
_NAMED: Final = 3


def text(look: Look, verdicts: Mapping[str, Sequence[str]]) -> str:
    """Return the whole: layers, totals, the gates."""
    image = look.image
    labels = image.config.labels
    what = f": {labels[BENTO]} for {labels.get(PLATFORM, '?')}" if BENTO in labels else ""
    lines = [f"{image.name}{what}", "", *_layers(look), "", *_totals(look)]
    return "\n".join([*lines, "", *_verdicts(verdicts)])


def _layers(look: Look) -> Iterator[str]:
    image = look.image
    wasted: dict[int, int] = collections.Counter()
    for waste in look.waste:
        wasted[waste.layer.number] += waste.bytes
    yield f"{'#':>3} {'part':4} {'raw':>10} {'pushed':>10}  contents"
    for layer in image.layers:
        lost = wasted.get(layer.number)
        yield (
            f"{layer.number:>3} {_part(image, layer):4} {sizes.shown(layer.raw_bytes):>10} "
            f"{sizes.shown(layer.compressed_bytes):>10}  {described(layer)}"
            f"{f'  ({sizes.shown(lost)} for nothing)' if lost else ''}"
        )


def described(layer: Layer) -> str:
    """Return what a layer mostly is: a part of the image, or its largest directories."""
    if not layer.files:
        return "nothing"
    put = _PUT.search(layer.created_by)
    if put and put["source"] in _PARTS:
        return _PARTS[put["source"]]
    largest = layer.largest_directories(_NAMED)
    return ", ".join(path.rpartition("/")[2] or path for path, _ in largest)


def _totals(look: Look) -> Iterator[str]:
    image = look.image
    raw = sum(layer.raw_bytes for layer in image.app)
    whole = sizes.shown(image.raw_bytes), sizes.shown(image.compressed_bytes)
    yield "image    {} raw, {} pushed".format(*whole)
    if image.shared:
        yield f"app part {sizes.shown(raw)} raw, {sizes.shown(image.app_bytes)} pushed"
        yield f"a code change pushes {sizes.shown(image.layers[-1].compressed_bytes)}"
    if look.waste:
        lost = sum(waste.bytes for waste in look.waste)
        yield f"for nothing: {sizes.shown(lost)}, counting files over 1 MiB"


def _verdicts(verdicts: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for gate, faults in verdicts.items():
        yield f"  {'FAIL' if faults else 'ok  '}  {gate}"
        yield from (f"          {fault}" for fault in faults)


def _part(image: Image, layer: Layer) -> str:
    """Return which part of its image a layer is; one that is a base itself has no parts."""
    if not image.shared:
        return "own"
    return "base" if layer.number <= image.shared else "app"
