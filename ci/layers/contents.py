"""What one layer's archive holds, read as it streams by; nothing of it is kept but this list."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import posixpath
import tarfile
from typing import IO, Final

from ci import sizes
from ci.errors import CiError
from ci.layers import unpack
from ci.layers.image import File

BIG: Final = sizes.MIB
"""From here on two files with the same content count as duplicates."""

_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a layer changes; see `ci.layers.image.Layer`."""

    raw_bytes: int
    files: tuple[File, ...]
    removed: tuple[str, ...]
    emptied: tuple[str, ...]


def read(stream: IO[bytes], what: str) -> Contents:
    """Read a layer's archive to its end; `what` names it in errors.

    Raises:
        CiError: it is no archive, or it ends too early.
    """
    counted = _Counted(stream)
    files: list[File] = []
    removed: list[str] = []
    emptied: list[str] = []
    try:
        with tarfile.open(fileobj=counted, mode="r|", bufsize=unpack.CHUNK) as archive:
            while (entry := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it keeps them all
                path = posixpath.normpath(entry.name).lstrip("/")
                folder, name = posixpath.split(path)
                if name == _OPAQUE:
                    emptied.append(folder)
                elif name.startswith(_WHITEOUT):
                    removed.append(posixpath.join(folder, name.removeprefix(_WHITEOUT)))
                elif not entry.isdir():
                    files.append(File(path, entry.size, _digest(archive, entry)))
    except tarfile.TarError as error:
        raise CiError(f"{what} is no layer: {error}; build or pull the image again") from error
    while counted.read(unpack.CHUNK):
        pass
    return Contents(counted.count, tuple(files), tuple(removed), tuple(emptied))


def _digest(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> str:
    source = archive.extractfile(entry) if entry.isreg() and entry.size > BIG else None
    if source is None:
        return ""
    digest = hashlib.sha256()
    while chunk := source.read(unpack.CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


class _Counted(io.RawIOBase):
    """A stream that counts what was read of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self._stream = stream
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.count += len(data)
        return data
