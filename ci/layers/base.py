"""Which layers of an image are its base's, and which it adds."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ci.errors import CiError
from ci.layers import archive
from ci.layers.image import BASE_NAME

if TYPE_CHECKING:
    from ci.layers.image import Image


def on_base(image: Image, given: str = "") -> Image:
    """Return the image with `shared` set, from the base that its label names or that is given.

    An image that names no base is a base: all of it is its own.

    Raises:
        CiError: the base is not here, or the image does not stand on it.
    """
    base = given or image.config.labels.get(BASE_NAME, "")
    if not base:
        return image
    try:
        below = archive.diff_ids(base)
    except CiError as error:
        raise CiError(f"the base of {image.name}: {error}; --base names another") from error
    own = tuple(layer.diff_id for layer in image.layers)
    if own[: len(below)] != below:
        same = sum(1 for layer in own if layer in set(below))
        raise CiError(
            f"{image.name} does not stand on {base} as it is now: they share {same} of its "
            f"{len(below)} layers; build the image again, or name its base with --base"
        )
    return dataclasses.replace(image, shared=len(below))
