"""What each image's app part weighed when it was last accepted: one entry a bento and platform.

The file is kept in git, so `git log -p bentos/sizes.json` is the history.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, Final

from ci import sizes
from ci.errors import CiError
from ci.layers.image import BENTO, PLATFORM
from ci.paths import BENTOS

if TYPE_CHECKING:
    from pathlib import Path

    from ci.layers.image import Image

FILE: Final = BENTOS / "sizes.json"
SHARE: Final = 0.10
SLACK: Final = 5 * sizes.MIB


@dataclasses.dataclass(frozen=True)
class Entry:
    """The sizes of one image: the app part as pushed, the whole unpacked, its largest layer."""

    image: str
    platform: str
    app_compressed_bytes: int
    raw_bytes: int
    largest_layer_bytes: int
    layers: int


def entry(image: Image) -> Entry:
    """Return an image's sizes.

    Raises:
        CiError: it does not say which bento it is, and for which platform.
    """
    labels = image.config.labels
    if not labels.get(BENTO) or not labels.get(PLATFORM):
        raise CiError(
            f"{image.name} has no labels {BENTO} and {PLATFORM}, so --history cannot name it; "
            "build it with `python -m ci image`"
        )
    return Entry(
        image=labels[BENTO],
        platform=labels[PLATFORM],
        app_compressed_bytes=image.app_bytes,
        raw_bytes=image.raw_bytes,
        largest_layer_bytes=max((layer.raw_bytes for layer in image.layers), default=0),
        layers=len(image.layers),
    )


def load(path: Path) -> dict[str, Entry]:
    """Return the accepted sizes; none where there is no such file yet.

    Raises:
        CiError: the file is not what this module writes.
    """
    if not path.exists():
        return {}
    try:
        said: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return {key: Entry(**value) for key, value in said.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise CiError(f"{path} is no file of sizes: {error}; take it from git again") from error


def growth(now: Entry, path: Path) -> str:
    """Return the fault if the app part grew by over 10 % and over 5 MiB, else nothing.

    Raises:
        CiError: the file is not what this module writes.
    """
    before = load(path).get(_key(now))
    if before is None:
        return ""
    grown = now.app_compressed_bytes - before.app_compressed_bytes
    if grown <= SLACK or grown <= before.app_compressed_bytes * SHARE:
        return ""
    return (
        f"the app part of {now.image} for {now.platform} grew from "
        f"{sizes.shown(before.app_compressed_bytes)} to {sizes.shown(now.app_compressed_bytes)} "
        f"compressed: take out what is not needed, or give --accept and commit {path.name}"
    )


def write(now: Entry, path: Path) -> None:
    """Put an image's sizes in the place of what was accepted before."""
    known = {**load(path), _key(now): now}
    data = {key: dataclasses.asdict(known[key]) for key in sorted(known)}
    made = path.with_name(f"{path.name}.new")
    made.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    made.rename(path)


def _key(now: Entry) -> str:
    return f"{now.image}:{now.platform}"
