"""An image's layers as a picture: two bars to scale, on disk and on the wire, and a list below."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from ci import sizes
from ci.layers.holds import holds
from ci.layers.image import BENTO, PLATFORM
from ci.layers.table import part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci.layers.gates import Look
    from ci.layers.image import Image, Layer

_WIDTH: Final = 1200
_MARGIN: Final = 48
_BAR_LEFT: Final = 176
_BAR_WIDTH: Final = _WIDTH - _MARGIN - _BAR_LEFT
_BAR: Final = 64
_STRIP: Final = 9
_ROW: Final = 30
_RAW_TOP: Final = 170
_WIRE_TOP: Final = 306
_LIST_TOP: Final = 468
_SCALE_LEFT: Final = 620
_SCALE_WIDTH: Final = 240
_UNPACKED_RIGHT: Final = _SCALE_LEFT + _SCALE_WIDTH + 110
_SMALL: Final = 16 * sizes.KIB
"""Layers below this are in the bars, not in the list."""
_BASE: Final = ("#24507a", "#3a77ad", "#5a93c6")
_APP: Final = ("#b94d12", "#dd7526", "#e89a4f")
_INK: Final = "#1d2733"
_DIM: Final = "#66727f"
_RED: Final = "#c8203a"
_GREEN: Final = "#1f7a4d"
_LINE: Final = f'fill="none" stroke="{_GREEN}" stroke-width="2"'
_LETTER: Final = 0.62
"""The width of a letter in parts of its height: a mean of bold ones, on the safe side."""


@dataclasses.dataclass(frozen=True)
class _Box:
    """One layer in a bar: where it begins and how wide it is."""

    layer: Layer
    left: float
    width: float

    @property
    def right(self) -> float:
        return self.left + self.width


def svg(look: Look) -> str:
    """Return the picture of an image, a whole SVG document."""
    image = look.image
    wasted = _wasted(look)
    raw = [*_boxes(image, lambda layer: layer.raw_bytes)]
    wire = [*_boxes(image, lambda layer: layer.compressed_bytes)]
    listed = [layer for layer in image.layers if layer.raw_bytes >= _SMALL]
    height = _LIST_TOP + _ROW * (len(listed) + 2)
    parts = [
        *_opening(image, height),
        *_caption("unpacked", image.raw_bytes, _RAW_TOP),
        *_brackets(image, raw),
        *_ribbons(image, raw, wire),
        *(line for box in raw for line in _segment(image, box, _RAW_TOP, wasted)),
        *_caption("pushed", image.compressed_bytes, _WIRE_TOP),
        *(line for box in wire for line in _segment(image, box, _WIRE_TOP, {})),
        *_change(image, wire),
        *_list(image, listed, wasted),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _wasted(look: Look) -> dict[int, int]:
    """Return how many bytes of each layer are there for nothing."""
    found: dict[int, int] = {}
    for waste in look.waste:
        found[waste.layer.number] = found.get(waste.layer.number, 0) + waste.bytes
    return found


def _boxes(image: Image, weight: Callable[[Layer], int]) -> Iterator[_Box]:
    total = sum(weight(layer) for layer in image.layers) or 1
    left = float(_BAR_LEFT)
    for layer in image.layers:
        width = weight(layer) / total * _BAR_WIDTH
        yield _Box(layer, left, width)
        left += width


def _colour(image: Image, layer: Layer) -> str:
    return (_APP if part(image, layer) == "app" else _BASE)[layer.number % 3]


def _opening(image: Image, height: int) -> Iterator[str]:
    labels = image.config.labels
    title = f"{labels[BENTO]} for {labels.get(PLATFORM, '?')}" if BENTO in labels else image.name
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img" '
        'font-family="Inter, Segoe UI, Helvetica, DejaVu Sans, Arial, sans-serif">'
    )
    yield f"<title>{escape(image.name)}: its layers to scale</title>"
    yield (
        '<defs><pattern id="twice" width="6" height="6" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate(45)"><rect width="6" height="6" fill="{_RED}"/>'
        '<rect width="2" height="6" fill="#fff"/></pattern></defs>'
    )
    yield f'<rect width="{_WIDTH}" height="{height}" rx="12" fill="#fff"/>'
    yield _text(_MARGIN, 58, title, size=28, weight="700")
    said = f"{image.name}, {len(image.layers)} layers"
    if image.shared:
        raw = sizes.shown(sum(layer.raw_bytes for layer in image.app))
        said += f"; the app part adds {raw} unpacked, {sizes.shown(image.app_bytes)} pushed"
    yield _text(_MARGIN, 86, said, size=15, fill=_DIM)


def _caption(what: str, count: int, top: int) -> Iterator[str]:
    yield _text(_MARGIN, top + 28, sizes.shown(count), size=18, weight="700")
    yield _text(_MARGIN, top + 48, what, fill=_DIM)


def _brackets(image: Image, boxes: list[_Box]) -> Iterator[str]:
    """Draw a bracket over each part, with its name; the app's stands at the right edge."""
    top = _RAW_TOP - 10
    whole = ("its own layers", boxes, "start", _BASE[1])
    parts = (
        ("base: shared, pulled once", boxes[: image.shared], "start", _BASE[1]),
        ("app part", boxes[image.shared :], "end", _APP[1]),
    )
    for name, of_part, anchor, colour in parts if image.shared else (whole,):
        if not of_part:
            continue
        right = of_part[-1].right
        left = min(of_part[0].left, right - 8)
        yield (
            f'<path d="M{left + 1:.1f} {top} v-8 H{right - 1:.1f} v8" fill="none" '
            f'stroke="{colour}" stroke-width="2"/>'
        )
        at = left if anchor == "start" else right
        yield _text(at, top - 16, name, fill=colour, weight="600", anchor=anchor)


def _ribbons(image: Image, raw: list[_Box], wire: list[_Box]) -> Iterator[str]:
    """Draw where each layer of the upper bar is in the lower one."""
    top, bottom = _RAW_TOP + _BAR, _WIRE_TOP
    middle = (top + bottom) / 2
    for above, below in zip(raw, wire, strict=True):
        if above.width + below.width < 1:
            continue
        yield (
            f'<path d="M{above.left:.1f} {top} C{above.left:.1f} {middle} {below.left:.1f} '
            f"{middle} {below.left:.1f} {bottom} H{below.right:.1f} C{below.right:.1f} {middle} "
            f'{above.right:.1f} {middle} {above.right:.1f} {top} Z" '
            f'fill="{_colour(image, above.layer)}" opacity="0.16"/>'
        )


def _segment(image: Image, box: _Box, top: int, wasted: dict[int, int]) -> Iterator[str]:
    layer = box.layer
    gap = 1 if box.width > 3 else 0  # noqa: PLR2004  a gap must not eat a sliver
    yield (
        f'<rect x="{box.left:.1f}" y="{top}" width="{max(box.width - gap, 0):.1f}" '
        f'height="{_BAR}" fill="{_colour(image, layer)}"><title>{escape(_tip(layer))}</title>'
        "</rect>"
    )
    if lost := wasted.get(layer.number):
        width = box.width * min(lost / layer.raw_bytes, 1)
        yield (
            f'<rect x="{box.left:.1f}" y="{top + _BAR - _STRIP}" '
            f'width="{max(width - gap, 0):.1f}" height="{_STRIP}" fill="url(#twice)"/>'
        )
    size = sizes.shown(layer.raw_bytes if top == _RAW_TOP else layer.compressed_bytes)
    room = box.width - 16
    name = _fitting(holds(layer), room, 14)
    if name and _width(size, 12) <= room:
        at = box.left + 9
        yield _text(at, top + 29, name, fill="#fff", weight="600", size=14)
        yield _text(at, top + 48, size, fill="#fff", size=12)
    elif _width(str(layer.number), 12) + 4 <= box.width:
        middle = box.left + box.width / 2
        yield _text(middle, top + 38, str(layer.number), fill="#fff", size=12, anchor="middle")


def _tip(layer: Layer) -> str:
    return (
        f"layer {layer.number}: {holds(layer)}, {sizes.shown(layer.raw_bytes)} unpacked, "
        f"{sizes.shown(layer.compressed_bytes)} pushed"
    )


def _change(image: Image, wire: list[_Box]) -> Iterator[str]:
    """Draw, under the end of the lower bar, what a change of code pushes."""
    if not image.shared:
        return
    said = f"a code change pushes {sizes.shown(image.change_bytes)}"
    width = _width(said, 16) + 32
    end = wire[-1].right
    left, top = end - width, _WIRE_TOP + _BAR + 20
    yield f'<path d="M{end - 17:.1f} {top} q0 -12 16 -12 V{_WIRE_TOP - 4}" {_LINE}/>'
    yield (
        f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="34" rx="17" fill="{_GREEN}"/>'
    )
    yield _text(
        left + width / 2, top + 22, said, size=16, fill="#fff", weight="600", anchor="middle"
    )


def _list(image: Image, listed: list[Layer], wasted: dict[int, int]) -> Iterator[str]:
    largest = max((layer.raw_bytes for layer in listed), default=1)
    yield _text(_UNPACKED_RIGHT, _LIST_TOP, "unpacked", fill=_DIM, anchor="end")
    yield _text(_WIDTH - _MARGIN, _LIST_TOP, "pushed", fill=_DIM, anchor="end")
    y = _LIST_TOP
    for layer in listed:
        y += _ROW
        yield f'<path d="M{_MARGIN} {y - 20} H{_WIDTH - _MARGIN}" stroke="#e6eaee"/>'
        yield from _row(layer, y, _colour(image, layer), wasted.get(layer.number, 0))
        for count, opacity in ((layer.raw_bytes, 0.3), (layer.compressed_bytes, 1)):
            yield (
                f'<rect x="{_SCALE_LEFT}" y="{y - 11}" height="12" opacity="{opacity}" '
                f'width="{count / largest * _SCALE_WIDTH:.1f}" fill="{_colour(image, layer)}"/>'
            )
    small = len(image.layers) - len(listed)
    if small:
        said = f"and {small} layers below {sizes.shown(_SMALL)}"
        yield _text(_MARGIN + 56, y + _ROW, said, fill=_DIM)


def _row(layer: Layer, y: int, colour: str, lost: int) -> Iterator[str]:
    yield f'<rect x="{_MARGIN}" y="{y - 11}" width="12" height="12" rx="3" fill="{colour}"/>'
    yield _text(_MARGIN + 42, y, str(layer.number), fill=_DIM, anchor="end")
    mark = f"{sizes.shown(lost)} for nothing" if lost else ""
    room = _SCALE_LEFT - _MARGIN - 76 - _width(mark, 13)
    yield _text(_MARGIN + 56, y, _fitting(holds(layer), room, 14) or "...", size=14)
    if mark:
        yield _text(_SCALE_LEFT - 14, y, mark, fill=_RED, weight="600", anchor="end")
    yield _text(_UNPACKED_RIGHT, y, sizes.shown(layer.raw_bytes), anchor="end")
    yield _text(_WIDTH - _MARGIN, y, sizes.shown(layer.compressed_bytes), anchor="end")


def _text(
    x: float,
    y: float,
    said: str,
    *,
    size: int = 13,
    fill: str = _INK,
    weight: str = "400",
    anchor: str = "start",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{escape(said)}</text>'
    )


def _width(said: str, size: int) -> float:
    return len(said) * size * _LETTER


def _fitting(said: str, room: float, size: int) -> str:
    """Return what fits of a list of names, whole names only; nothing if the first does not."""
    names = said.split(", ")
    while names and _width(", ".join(names), size) > room:
        names.pop()
    return ", ".join(names)
