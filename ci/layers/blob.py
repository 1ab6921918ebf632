"""What one layer's blob contains, read as it streams by; only the list of its files is kept.

Python 3.11 has no zstd, so that is left to the command of that name.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import posixpath
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from typing import IO, TYPE_CHECKING, Final

from ci.errors import CiError
from ci.layers.image import BIG, Contents, File

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK: Final = 1 << 20
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"


def read(blob: IO[bytes], what: str) -> Contents:
    """Read a layer's blob, compressed or not, to its end; `what` names it in errors.

    Raises:
        CiError: it is no layer, it is damaged, or the command that decompresses it is missing.
    """
    files: list[File] = []
    removed: list[str] = []
    emptied: list[str] = []
    try:
        with _decompressed(blob, what) as stream:
            counted = _Counted(stream)
            with tarfile.open(fileobj=counted, mode="r|", bufsize=CHUNK) as archive:
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
            while counted.read(CHUNK):
                pass
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise CiError(f"{what} is no layer: {error}; build or pull the image again") from error
    return Contents(counted.count, tuple(files), tuple(removed), tuple(emptied))


def _digest(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> str:
    source = archive.extractfile(entry) if entry.isreg() and entry.size > BIG else None
    if source is None:
        return ""
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


class _Counted(io.RawIOBase):
    """A stream that counts what was read of it."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile) -> None:
        super().__init__()
        self._stream = stream
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.count += len(data)
        return data


@contextlib.contextmanager
def _decompressed(blob: IO[bytes], what: str) -> Iterator[IO[bytes] | gzip.GzipFile]:
    head = blob.read(4)
    blob.seek(0)
    if head.startswith(b"\x1f\x8b"):
        with gzip.open(blob) as unpacked:
            yield unpacked
        return
    if head != b"\x28\xb5\x2f\xfd":
        yield blob
        return
    command = shutil.which("zstd")
    if command is None:
        raise CiError(f"{what} is compressed with zstd: install the package zstd")
    with tempfile.TemporaryFile() as packed:
        shutil.copyfileobj(blob, packed, CHUNK)
        packed.seek(0)
        with subprocess.Popen(
            [command, "-dcq"], stdin=packed, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            if not (process.stdout and process.stderr):
                raise CiError(f"{command} was started without pipes")
            yield process.stdout
            said = process.stderr.read().decode(errors="replace").strip()
    if process.returncode:
        raise CiError(f"{what} is damaged: {said}; build or pull the image again")
