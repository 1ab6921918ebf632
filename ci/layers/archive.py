"""Reads an image from an OCI layout: what the engine saves, an archive, or a directory.

The blobs of an archive come in any order, so each is read once as it passes, and the image is put
together at the end. No layer is ever kept, in memory or on disk.
"""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from pathlib import Path
from typing import IO, Any, Final

from ci import docker, sizes
from ci.errors import CiError
from ci.layers import blob
from ci.layers.image import BASE_NAME, Config, Contents, Image, Layer
from ci.terminal import say

_JSON_LIMIT: Final = 16 * sizes.MIB
_BLOBS: Final = "blobs/sha256/"
_ATTESTATION: Final = "vnd.docker.reference.type"


@dataclasses.dataclass
class _Found:
    """What was read: small JSON files by name, and layers by digest."""

    documents: dict[str, bytes] = dataclasses.field(default_factory=dict)
    layers: dict[str, Contents] = dataclasses.field(default_factory=dict)


def read(reference: str) -> Image:
    """Return an image: `reference` is the path of an OCI layout, or a name that the engine knows.

    Raises:
        CiError: there is no such image, or it is damaged.
    """
    path = Path(reference)
    if not path.exists():
        docker.ready()
        if docker.inspect(reference) is None:
            raise _none(reference)
    say(f"Reading {reference}")
    if path.is_dir():
        found = _from_directory(path)
    else:
        with path.open("rb") if path.exists() else docker.stream("save", reference) as stream:
            found = _from_archive(stream)
    return _image(reference, found)


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


def _from_archive(stream: IO[bytes]) -> _Found:
    found = _Found()
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=blob.CHUNK) as archive:
            while (entry := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it keeps them all
                file = archive.extractfile(entry) if entry.isreg() else None
                if isinstance(file, io.BufferedReader):
                    _take(found, entry.name.removeprefix("./"), file, entry.size)
    except tarfile.TarError as error:
        raise CiError(f"the image is no archive of an OCI layout: {error}") from error
    return found


def _from_directory(path: Path) -> _Found:
    found = _Found()
    for inner in path.rglob("*"):
        if inner.is_file():
            with inner.open("rb") as file:
                _take(found, inner.relative_to(path).as_posix(), file, inner.stat().st_size)
    return found


def _take(found: _Found, name: str, file: io.BufferedReader, size: int) -> None:
    """Keep what a file of a layout says, whatever it is."""
    if file.peek(1).startswith((b"{", b"[")):
        if size <= _JSON_LIMIT:
            found.documents[name] = file.read(size)
    elif name.startswith(_BLOBS):
        digest = f"sha256:{name.removeprefix(_BLOBS)}"
        found.layers[digest] = blob.read(file, f"the layer {digest[:19]}")


def _image(reference: str, found: _Found) -> Image:
    manifest = _manifest(reference, found)
    config = _document(reference, found, manifest["config"]["digest"])
    made = [entry for entry in config.get("history", []) if not entry.get("empty_layer")]
    layers = []
    for number, said in enumerate(manifest["layers"], 1):
        contents = found.layers.get(said["digest"])
        if contents is None:
            raise CiError(f"{reference} has no layer {said['digest']}: pull or build it again")
        layers.append(
            Layer(
                **vars(contents),
                number=number,
                digest=said["digest"],
                diff_id=config["rootfs"]["diff_ids"][number - 1],
                compressed_bytes=said["size"],
                created_by=made[number - 1].get("created_by", "") if number <= len(made) else "",
            )
        )
    return Image(reference, _config(config.get("config") or {}), tuple(layers))


def _config(said: dict[str, Any]) -> Config:
    pairs = (entry.partition("=") for entry in said.get("Env") or [])
    return Config(
        user=said.get("User") or "",
        healthcheck=tuple((said.get("Healthcheck") or {}).get("Test") or ()),
        labels=said.get("Labels") or {},
        environment={name: value for name, _, value in pairs},
    )


def _manifest(reference: str, found: _Found) -> dict[str, Any]:
    """Return the manifest of the one image in a layout."""
    if "index.json" not in found.documents:
        raise CiError(
            f"{reference} is no OCI layout: there is no index.json in it "
            "(the engine writes one from Docker 25 on)"
        )
    index = json.loads(found.documents["index.json"])
    while True:
        digests = {
            entry["digest"]
            for entry in index["manifests"]
            if _ATTESTATION not in entry.get("annotations", {})
        }
        if len(digests) != 1:
            raise CiError(f"{reference} contains {len(digests)} images; save one of them alone")
        index = _document(reference, found, digests.pop())
        if "manifests" not in index:
            return index


def _document(reference: str, found: _Found, digest: str) -> dict[str, Any]:
    text = found.documents.get(digest.replace("sha256:", _BLOBS))
    if text is None:
        raise CiError(f"{reference} has no {digest}: pull or build it again")
    document: dict[str, Any] = json.loads(text)
    return document
