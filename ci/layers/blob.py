"""What one layer's blob contains, read as it streams by; only the list of its files is kept.

Python 3.11 has no zstd, so that and gzip are left to the commands of those names: they also work on
another core while this one looks at what comes out.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import posixpath
import shutil
import subprocess
import tarfile
import threading
from typing import IO, TYPE_CHECKING, Final

from ci.errors import CiError
from ci.layers.image import BIG, Contents, File

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK: Final = 1 << 20
_MAGIC: Final = {b"\x28\xb5\x2f\xfd": "zstd", b"\x1f\x8b": "gzip"}
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"


def read(blob: io.BufferedReader, what: str) -> Contents:
    """Read a layer's blob, compressed or not, to its end; `what` names it in errors.

    Raises:
        CiError: it is no layer, it is damaged, or the command that decompresses it is missing.
    """
    with _decompressed(blob, what) as stream:
        counted = _Counted(stream)
        files: list[File] = []
        removed: list[str] = []
        emptied: list[str] = []
        try:
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
        except tarfile.TarError as error:
            raise CiError(f"{what} is no layer: {error}; build or pull the image again") from error
        while counted.read(CHUNK):
            pass
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

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self._stream = stream
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.count += len(data)
        return data


@contextlib.contextmanager
def _decompressed(blob: io.BufferedReader, what: str) -> Iterator[IO[bytes]]:
    head = blob.peek(4)
    command = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")
    if not command:
        yield blob
        return
    found = shutil.which(command)
    if found is None:
        raise CiError(f"{what} is compressed with {command}: install the package {command}")
    with subprocess.Popen(
        [found, "-dcq"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        if not (process.stdin and process.stdout and process.stderr):
            raise CiError(f"{command} was started without pipes")
        faults: list[Exception] = []
        feeding = threading.Thread(target=_feed, args=(blob, process.stdin, faults))
        feeding.start()
        try:
            yield process.stdout
        finally:
            process.stdout.close()
            feeding.join()
        said = process.stderr.read().decode(errors="replace").strip()
    if faults:
        raise CiError(f"{what} cannot be read: {faults[0]}") from faults[0]
    if process.returncode:
        raise CiError(f"{what} is damaged: {said or command}; build or pull the image again")


def _feed(blob: IO[bytes], sink: IO[bytes], faults: list[Exception]) -> None:
    try:
        with contextlib.suppress(BrokenPipeError), sink:
            shutil.copyfileobj(blob, sink, CHUNK)
    except Exception as error:  # noqa: BLE001  raised again by the thread that waits
        faults.append(error)
