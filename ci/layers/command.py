"""`python -m ci layers`: what an image's layers contain and weigh, and whether it may be shipped.

    python -m ci layers bentovox/chat:cpu                  the table, and the gates
    python -m ci layers chat.tar --base base.tar           an OCI layout instead of the engine's

The layers that the image shares with its base are the base part; the rest, the app part, is what a
push sends if the base is there already. A gate that fails names the layer, the files and the
remedy, and the exit code is 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.layers import archive, table
from ci.layers.gates import Look, judge
from ci.terminal import result, say

if TYPE_CHECKING:
    import argparse


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.add_argument("image", help="an image of the engine, or the path of an OCI layout")
    parser.add_argument("--base", default="", help="its base (default: the one in its label)")


def work(given: argparse.Namespace) -> int:
    """Show an image's layers and check them."""
    image = archive.on_base(archive.read(given.image), given.base)
    look = Look.at(image)
    verdicts = judge(look)
    result(table.text(look, verdicts))
    faults = sum(map(len, verdicts.values()))
    if faults:
        say(f"python -m ci layers: {image.name} may not be shipped; faults named above: {faults}")
    return 1 if faults else 0
