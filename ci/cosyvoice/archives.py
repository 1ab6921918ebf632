"""Reads the files that are kept from archives and folders, into memory and within bounds.

GitHub's archives are not unpacked onto the disk: no name in one becomes a path before the hash of
all files has been verified.
"""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci.cosyvoice.pins import is_kept
from ci.errors import CiError

if TYPE_CHECKING:
    from typing import IO

    from ci.cosyvoice.pins import Files

_MIB: Final = 1 << 20
_FILE_BYTES: Final = 8 * _MIB
_KEPT_BYTES: Final = 64 * _MIB
_UNPACKED_BYTES: Final = 1024 * _MIB
_MATCHA_IN_CHECKOUT: Final = ("matcha", "third_party/Matcha-TTS/matcha")


def from_tarball(data: bytes, package: str) -> Files:
    """Return the kept files of `package`, and its licence, from GitHub's archive of a commit.

    Raises:
        CiError: it is no such archive, has a link where a file should be, or is far too large.
    """
    files: Files = {}
    unpacked = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            for member in archive:
                unpacked += max(member.size, 0)
                if unpacked > _UNPACKED_BYTES:
                    raise CiError("GitHub's archive is far larger than upstream's code")
                name = member.name.partition("/")[2]  # without the folder named for the commit
                if name == "LICENSE":
                    name = f"{package}/LICENSE"
                elif not (is_kept(name) and name.startswith(f"{package}/")):
                    continue
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is None:
                    raise CiError(f"GitHub's archive: {member.name} is a link or no file")
                _read(files, name, stream)
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        raise CiError(f"GitHub's archive of {package} cannot be read: {error}") from error
    return files


def from_folder(folder: Path) -> Files:
    """Return the kept files and licences of a checkout, or of a copy made before.

    Raises:
        CiError: there is a link where a file should be, or it is far too large.
        OSError: a file cannot be read.
    """
    files: Files = {}
    for package in (folder / "cosyvoice", *(folder / place for place in _MATCHA_IN_CHECKOUT)):
        licence = f"{package.name}/LICENSE"
        # Links to folders are not followed.
        for path in sorted(Path(at, name) for at, _, names in os.walk(package) for name in names):
            name = f"{package.name}/{path.relative_to(package).as_posix()}"
            if is_kept(name) or name in {licence, "matcha/hifigan/LICENSE"}:
                if path.is_symlink() or not path.is_file():
                    raise CiError(f"{path} is a link or no file")
                _read(files, name, path.open("rb"))
        if package.is_dir() and licence not in files and (package.parent / "LICENSE").is_file():
            _read(files, licence, (package.parent / "LICENSE").open("rb"))
    return files


def _read(files: Files, name: str, stream: IO[bytes]) -> None:
    """Add a file to `files`, unless that makes them far larger than upstream's."""
    with stream:
        content = stream.read(_FILE_BYTES + 1)
    if len(content) > _FILE_BYTES or sum(map(len, files.values())) + len(content) > _KEPT_BYTES:
        raise CiError(f"{name} is far larger than upstream's")
    files[name] = content
