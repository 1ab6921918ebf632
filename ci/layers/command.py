"""`python -m ci layers`: what an image's layers hold and weigh, and whether it may be shipped.

    python -m ci layers bentovox/chat:cpu                  the table, and the gates
    python -m ci layers bentovox/chat:cpu --top 5          with the largest of each layer
    python -m ci layers chat.tar --base base.tar           an OCI layout instead of the engine's

The layers that the image shares with its base are the base part, the rest is the app part: what a
push sends where the base is there already. A gate that fails names the layer, the files and the
remedy, and the exit code is 1.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ci import command, specs
from ci.errors import CiError
from ci.layers import archive, table
from ci.layers.gates import Look, judge
from ci.layers.holds import holds
from ci.progress import say

if TYPE_CHECKING:
    import argparse

    from ci.layers.gates import Verdict
    from ci.layers.image import Image, Layer


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.parser("layers", __doc__)
    options.add_argument("image", help="an image of the engine, or the path of an OCI layout")
    options.add_argument(
        "--base", default="", help="what it stands on; default: what its label says"
    )
    options.add_argument(
        "--top",
        type=int,
        default=0,
        metavar="N",
        help="show the N largest directories and files of each layer",
    )
    options.add_argument("--no-gates", action="store_true", help="show, and judge nothing")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Show an image's layers and judge them."""
    given = parser().parse_args(arguments)
    return command.run("layers", lambda: _work(given))


def _work(given: argparse.Namespace) -> int:
    if given.top < 0:
        raise CiError(f"--top {given.top}: is less than 0")
    image = archive.on_base(archive.read(given.image), given.base)
    look = Look.at(image)
    verdicts = [] if given.no_gates else judge(look)
    if given.json:
        command.result_json(as_json(look, verdicts, given.top))
    else:
        command.result(table.text(look, verdicts, given.top))
    faults = sum(len(verdict.faults) for verdict in verdicts)
    if faults:
        say(f"python -m ci layers: {image.name} may not be shipped; faults named above: {faults}")
    return 1 if faults else 0


def as_json(look: Look, verdicts: list[Verdict], top: int) -> dict[str, Any]:
    """Return all that is known, as `--json` prints it."""
    image = look.image
    return {
        "image": image.name,
        "config": {**dataclasses.asdict(image.config), "environment": _environment(image)},
        "raw_bytes": image.raw_bytes,
        "compressed_bytes": image.compressed_bytes,
        "app_compressed_bytes": image.app_bytes,
        "change_bytes": image.change_bytes,
        "layers": [_layer(image, layer, top) for layer in image.layers],
        "wasted": [
            {
                "layer": waste.layer.number,
                "path": waste.path,
                "bytes": waste.bytes,
                "hidden": waste.hidden,
                "other_layer": waste.other.number,
                "other_path": waste.other_path,
            }
            for waste in look.waste
        ],
        "gates": [dataclasses.asdict(verdict) for verdict in verdicts],
    }


def _environment(image: Image) -> dict[str, str]:
    """Return the variables, without the values that a log must not hold."""
    return {
        name: "(looks like a secret)" if specs.is_secret(name, value) else value
        for name, value in image.config.environment.items()
    }


def _layer(image: Image, layer: Layer, top: int) -> dict[str, Any]:
    return {
        "number": layer.number,
        "part": table.part(image, layer),
        "digest": layer.digest,
        "diff_id": layer.diff_id,
        "compressed_bytes": layer.compressed_bytes,
        "raw_bytes": layer.raw_bytes,
        "created_by": layer.created_by,
        "holds": holds(layer),
        "files": len(layer.files),
        "largest_directories": dict(layer.largest_directories(top)),
        "largest_files": {file.path: file.bytes for file in layer.largest_files(top)},
    }
