"""Reads an image from an OCI layout: what the engine saves, an archive, or a directory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tarfile
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from ci import docker
from ci.errors import CiError
from ci.layers import blob
from ci.layers.image import BASE_NAME, Config, Image, Layer
from ci.terminal import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Layout = Callable[[str], IO[bytes] | None]

_ATTESTATION: Final = "vnd.docker.reference.type"


def read(reference: str) -> Image:
    """Return an image: `reference` is the path of an OCI layout, or a name that the engine knows.

    Raises:
        CiError: there is no such image, or it is damaged.
    """
    with _opened(reference) as layout:
        manifest = _manifest(reference, layout)
        config = _document(layout, manifest["config"]["digest"])
        history = config.get("history", [])
        made = [entry.get("created_by", "") for entry in history if not entry.get("empty_layer")]
        layers = []
        for number, said in enumerate(manifest["layers"], 1):
            with _blob(layout, said["digest"]) as file:
                contents = blob.read(file, f"the layer {said['digest'][:19]}")
            layers.append(
                Layer(
                    **vars(contents),
                    number=number,
                    digest=said["digest"],
                    diff_id=config["rootfs"]["diff_ids"][number - 1],
                    compressed_bytes=said["size"],
                    created_by=made[number - 1] if number <= len(made) else "",
                )
            )
    return Image(reference, _config(config.get("config") or {}), tuple(layers))


def diff_ids(reference: str) -> tuple[str, ...]:
    """Return the diff ids of an image's layers; one that only a registry has need not be pulled.

    Raises:
        CiError: there is no such image.
    """
    if Path(reference).exists():
        return tuple(layer.diff_id for layer in read(reference).layers)
    docker.ready()
    found = docker.diff_ids(reference)
    if not found:
        raise _none(reference)
    return found


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
        below = diff_ids(base)
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


def _none(reference: str) -> CiError:
    return CiError(
        f"{reference} is neither a path nor an image of the engine: build it, or "
        f"`docker pull {reference}`"
    )


@contextlib.contextmanager
def _opened(reference: str) -> Iterator[Layout]:
    """Yield what opens a layout's files by name; what the engine has is saved for that long."""
    say(f"Reading {reference}")
    path = Path(reference)
    with contextlib.ExitStack() as stack:
        if not path.exists():
            docker.ready()
            if docker.inspect(reference) is None:
                raise _none(reference)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bentovox-"))
            path = Path(folder, "image.tar")
            docker.call("save", f"--output={path}", reference)
        if path.is_dir():
            yield lambda name: (path / name).open("rb")
            return
        try:
            archive = stack.enter_context(tarfile.open(path))
        except tarfile.TarError as error:
            raise CiError(f"the image is no archive of an OCI layout: {error}") from error
        yield archive.extractfile


def _config(said: dict[str, Any]) -> Config:
    pairs = (entry.partition("=") for entry in said.get("Env") or [])
    return Config(
        user=said.get("User") or "",
        healthcheck=tuple((said.get("Healthcheck") or {}).get("Test") or ()),
        labels=said.get("Labels") or {},
        environment={name: value for name, _, value in pairs},
    )


def _manifest(reference: str, layout: Layout) -> dict[str, Any]:
    """Return the manifest of the one image in a layout."""
    index = _document(layout, "index.json")
    while "manifests" in index:
        digests = {
            entry["digest"]
            for entry in index["manifests"]
            if _ATTESTATION not in entry.get("annotations", {})
        }
        if len(digests) != 1:
            raise CiError(f"{reference} contains {len(digests)} images; save one of them alone")
        index = _document(layout, digests.pop())
    return index


def _document(layout: Layout, digest: str) -> dict[str, Any]:
    with _blob(layout, digest) as file:
        document: dict[str, Any] = json.load(file)
    return document


def _blob(layout: Layout, name: str) -> IO[bytes]:
    try:
        file = layout(name.replace("sha256:", "blobs/sha256/"))
    except (KeyError, FileNotFoundError):
        file = None
    if file is None:
        raise CiError(
            f"the image is no OCI layout: there is no {name} in it; pull or build it again, with "
            "Docker 25 or newer"
        )
    return file
