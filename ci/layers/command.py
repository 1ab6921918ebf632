"""`python -m ci layers`: what an image's layers contain and weigh, and whether it may be shipped.

    python -m ci layers bentovox/chat:cpu                  the table, and the gates
    python -m ci layers chat.tar --base base.tar           an OCI layout instead of the engine's

The layers that the image shares with its base are the base part; the rest, the app part, is what a
push sends if the base is there already. A gate that fails names the layer, the files and the
remedy, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import collections
import re
from collections.abc import Iterator, Sequence
from typing import Final

from ci.layers.gates import Look, judge
from ci.layers.image import Layer, on_base, read, shown
from ci.terminal import result, say

_PUT: Final = re.compile(r"(?:COPY|ADD)\s+(?:--\S+\s+)*(?P<source>\S+)\s")
_PARTS: Final = {
    "bento": "code",
    "parts/models": "shipped models",
    "parts/cosyvoice": "CosyVoice",
    "parts/baked": "baked models",
}


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.add_argument("image", help="an image of the engine, or the path of an OCI layout")
    parser.add_argument("--base", default="", help="its base (default: the one in its label)")


def work(given: argparse.Namespace) -> int:
    """Show an image's layers and check them."""
    look = Look(on_base(read(given.image), given.base))
    name, labels = look.image.name, look.image.labels
    platform = labels.get("bentovox.platform", "?")
    what = f": {labels['bentovox.bento']} for {platform}" if "bentovox.bento" in labels else ""
    result("\n".join([f"{name}{what}", "", *_table(look), ""]))
    verdicts = judge(look)
    for gate, faults in verdicts.items():
        lines = [f"  {'FAIL' if faults else 'ok  '}  {gate}", *(f"{'':10}{one}" for one in faults)]
        result("\n".join(lines))
    if found := sum(map(len, verdicts.values())):
        say(f"python -m ci layers: {name} may not be shipped; faults named above: {found}")
        return 1
    return 0


def described(layer: Layer) -> str:
    """Return what a layer mostly is: a part of the image, or its largest directories."""
    if not layer.files:
        return "nothing"
    put = _PUT.search(layer.created_by)
    if put and put["source"] in _PARTS:
        return _PARTS[put["source"]]
    return ", ".join(path.rpartition("/")[2] or path for path, _ in layer.largest)


def _table(look: Look) -> Iterator[str]:
    image = look.image
    wasted = collections.Counter[int]()
    for waste in look.waste:
        wasted[waste.layer.number] += waste.bytes
    yield f"{'#':>3} {'part':4} {'raw':>10} {'pushed':>10}  contents"
    for layer in image.layers:
        # One that is a base itself has no parts.
        part = ("base" if layer.number <= image.shared else "app") if image.shared else "own"
        lost = wasted[layer.number]
        yield (
            f"{layer.number:>3} {part:4} {shown(layer.raw_bytes):>10} "
            f"{shown(layer.compressed_bytes):>10}  {described(layer)}"
            f"{f'  ({shown(lost)} for nothing)' if lost else ''}"
        )
    yield ""
    yield f"image    {_weight(image.layers)}"
    if image.shared:
        yield f"app part {_weight(image.app)}"
        yield f"a code change pushes {shown(image.layers[-1].compressed_bytes)}"


def _weight(layers: Sequence[Layer]) -> str:
    raw = shown(sum(layer.raw_bytes for layer in layers))
    return f"{raw} raw, {shown(sum(layer.compressed_bytes for layer in layers))} pushed"
