"""An image: its configuration, its layers and their files, read from an OCI layout.

The layout is what the engine saves, an archive, or a directory. Of a layer only the list of its
files is kept.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import gzip
import hashlib
import json
import posixpath
import re
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from ci import docker
from ci.errors import CiError
from ci.terminal import say

Layout = Callable[[str], IO[bytes] | None]


BASE_NAME: Final = "org.opencontainers.image.base.name"
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
BIG: Final = MIB
"""Only files larger than this count as waste."""

_CHUNK: Final = 1 << 20
_SITE: Final = re.compile(r"(?:.*/)?lib/python3[\d.]*/(?:site|dist)-packages")
_DEPTH: Final = 3
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_ATTESTATION: Final = "vnd.docker.reference.type"


def shown(count: int) -> str:
    """Return a number of bytes with its unit: `512 B`, `1.5 KiB`, `820.4 MiB`, `3.61 GiB`."""
    if count >= GIB:
        return f"{count / GIB:.2f} GiB"
    if count >= MIB:
        return f"{count / MIB:.1f} MiB"
    return f"{count / KIB:.1f} KiB" if count >= KIB else f"{count} B"


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """One entry of a layer that is no directory; `digest` is a big one's SHA-256, else empty."""

    path: str
    bytes: int
    digest: str = ""


@dataclasses.dataclass
class Layer:
    """One layer: its place from the bottom (the first is 1), its blob, and what it changes.

    `compressed_bytes` is the blob as it is pushed, `raw_bytes` the archive in it. `removed` are
    paths of the layers below, `emptied` directories whose content there is hidden.
    """

    number: int
    digest: str
    diff_id: str
    compressed_bytes: int
    created_by: str
    raw_bytes: int = 0
    files: list[File] = dataclasses.field(default_factory=list)
    removed: list[str] = dataclasses.field(default_factory=list)
    emptied: list[str] = dataclasses.field(default_factory=list)

    @property
    def largest(self) -> list[tuple[str, int]]:
        """Return the three directories with most of its bytes; a Python package counts as one."""
        total = collections.Counter[str]()
        for file in self.files:
            total[_directory(file.path)] += file.bytes
        return total.most_common(3)


@dataclasses.dataclass(frozen=True)
class Image:
    """One image; its first `shared` layers are its base's, the rest is the app part.

    `config` is how it says that it is to be run, as OCI has it.
    """

    name: str
    config: dict[str, Any]
    layers: list[Layer]
    shared: int = 0

    @property
    def labels(self) -> dict[str, str]:
        """Return its labels."""
        return self.config.get("Labels") or {}

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that it sets."""
        pairs = (entry.partition("=") for entry in self.config.get("Env") or ())
        return {name: value for name, _, value in pairs}

    @property
    def app(self) -> list[Layer]:
        """Return the layers that it adds to its base."""
        return self.layers[self.shared :]

    @property
    def app_bytes(self) -> int:
        """Return what it adds to its base, compressed."""
        return sum(layer.compressed_bytes for layer in self.app)


def read(reference: str) -> Image:
    """Return an image: `reference` is the path of a layout, or a name that the engine knows."""
    layers: list[Layer] = []
    with _opened(reference) as layout:
        manifest = _manifest(reference, layout)
        config = _document(layout, manifest["config"]["digest"])
        history = config.get("history", [])
        made = [entry.get("created_by", "") for entry in history if not entry.get("empty_layer")]
        ids = config["rootfs"]["diff_ids"]
        for at, (said, diff_id) in enumerate(zip(manifest["layers"], ids, strict=True)):
            by = made[at] if at < len(made) else ""
            layer = Layer(at + 1, said["digest"], diff_id, said["size"], by)
            with _blob(layout, layer.digest) as file:
                _fill(layer, file)
            layers.append(layer)
    return Image(reference, config.get("config") or {}, layers)


def diff_ids(reference: str) -> list[str]:
    """Return the diff ids of an image's layers; one that only a registry has need not be pulled."""
    if Path(reference).exists():
        return [layer.diff_id for layer in read(reference).layers]
    docker.ready()
    found = docker.diff_ids(reference)
    if not found:
        raise _none(reference)
    return found


def on_base(image: Image, given: str = "") -> Image:
    """Return the image with `shared` set, from the base that its label names or that is given.

    An image that names no base is a base: all of it is its own.
    """
    base = given or image.labels.get(BASE_NAME, "")
    if not base:
        return image
    try:
        below = diff_ids(base)
    except CiError as error:
        raise CiError(f"the base of {image.name}: {error}; --base names another") from error
    if [layer.diff_id for layer in image.layers[: len(below)]] != below:
        raise CiError(
            f"{image.name} does not stand on {base} as it is now: build the image again, or name "
            "its base with --base"
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
            why = str(error).partition(":\n")[0]  # tarfile tells of each compression that it tried
            raise CiError(
                f"the image is no archive of an OCI layout, as `docker save` writes one: {why}"
            ) from error
        yield archive.extractfile


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
        return dict(json.load(file))


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


def _fill(layer: Layer, blob: IO[bytes]) -> None:
    """Read a layer's blob, compressed or not, to its end."""
    from backports import zstd  # noqa: PLC0415  only the environment `dev` has it

    openers: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"\x28\xb5": zstd.open}
    opened = openers.get(blob.read(2), contextlib.nullcontext)
    blob.seek(0)
    try:
        with opened(blob) as stream:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=_CHUNK) as archive:
                while (entry := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # it keeps them all
                    path = posixpath.normpath(entry.name).lstrip("/")
                    folder, name = posixpath.split(path)
                    if name == _OPAQUE:
                        layer.emptied.append(folder)
                    elif name.startswith(_WHITEOUT):
                        layer.removed.append(posixpath.join(folder, name.removeprefix(_WHITEOUT)))
                    elif not entry.isdir():
                        layer.files.append(File(path, entry.size, _digest(archive, entry)))
            while stream.read(_CHUNK):
                pass
            layer.raw_bytes = stream.tell()
    except (tarfile.TarError, zlib.error, zstd.ZstdError, EOFError, gzip.BadGzipFile) as error:
        what = f"the layer {layer.digest[:19]}"
        raise CiError(f"{what} is no layer: {error}; build or pull the image again") from error


def _digest(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> str:
    source = archive.extractfile(entry) if entry.isreg() and entry.size > BIG else None
    if source is None:
        return ""
    return hashlib.file_digest(source, "sha256").hexdigest()  # type: ignore[arg-type]  # buffered


def _directory(path: str) -> str:
    """Return the directory that a file counts for: its package, or the first three levels."""
    if site := _SITE.match(path):
        package = path.find("/", site.end() + 1)
        return site.group() if package < 0 else path[:package]
    return "/".join(path.split("/")[:-1][:_DEPTH]) or "/"
