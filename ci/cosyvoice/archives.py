"""Reads the files that count out of archives and folders, into memory and within bounds.

Nothing is unpacked onto the disk: a name in an archive never becomes a path before the hash of all
that was read is known to be right.
"""

from __future__ import annotations

import os
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci.cosyvoice.pins import is_kept
from ci.errors import CiError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    from ci.cosyvoice.pins import Files

_MIB: Final = 1 << 20
_FILE_BYTES: Final = 8 * _MIB
_KEPT_BYTES: Final = 64 * _MIB
_UNPACKED_BYTES: Final = 1024 * _MIB
_ENTRIES: Final = 50_000
_BROKEN: Final = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError)
_MATCHA_LICENSE: Final = Path(__file__).with_name("matcha-license.txt")
_IN_WHEEL: Final = "xinference/thirdparty/"
_MATCHA_IN_CHECKOUT: Final = ("matcha", "third_party/Matcha-TTS/matcha")


def from_tarball(path: Path, package: str) -> Files:
    """Return the kept files of `package`, and its licence, from GitHub's archive of a commit.

    Raises:
        CiError: it is no such archive, holds a link in the place of a file, or is far too large.
    """
    files: Files = {}
    unpacked = 0
    try:
        with tarfile.open(path, "r:gz") as archive:
            for count, member in enumerate(archive):
                unpacked += max(member.size, 0)
                if count >= _ENTRIES or unpacked > _UNPACKED_BYTES:
                    raise CiError(f"{path.name} is far larger than upstream's code")
                name = member.name.partition("/")[2]  # without the folder named for the commit
                if name == "LICENSE":
                    name = f"{package}/LICENSE"
                elif not (is_kept(name) and name.startswith(f"{package}/")):
                    continue
                if not member.isfile():
                    raise CiError(f"{path.name}: {member.name} is a link or no file")
                _read(files, name, member.size, lambda: archive.extractfile(member))  # noqa: B023
    except _BROKEN as error:
        raise CiError(f"{path.name} cannot be read: {error}") from error
    return files


def from_wheel(path: Path) -> Files:
    """Return the kept files of both packages, and their licences, from the pinned wheel.

    Raises:
        CiError: it is no wheel, or is far too large.
    """
    files: Files = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = _name_in_wheel(entry.filename)
                if name:
                    _read(files, name, entry.file_size, lambda: archive.open(entry))  # noqa: B023
    except _BROKEN as error:
        raise CiError(f"{path.name} cannot be read: {error}") from error
    return _with_matcha_license(files)


def from_installed_wheel(folder: Path) -> Files:
    """Return what `from_wheel` does, from a folder that an installer unpacked the wheel into.

    Raises:
        CiError: a link in the place of a file, or it is far too large.
    """
    files: Files = {}
    roots = (folder / _IN_WHEEL, *folder.glob("xinference-*.dist-info"))
    for root in roots:
        for path in _walk(root):
            name = _name_in_wheel(path.relative_to(folder).as_posix())
            if name:
                _read_file(files, name, path)
    return _with_matcha_license(files)


def from_folder(folder: Path) -> Files:
    """Return the kept files and licences that a checkout, or a copy made before, has.

    Raises:
        CiError: a link in the place of a file, or it is far too large.
    """
    files: Files = {}
    matcha = (folder / place for place in _MATCHA_IN_CHECKOUT)
    for package in (folder / "cosyvoice", next((p for p in matcha if p.is_dir()), None)):
        if package is None or not package.is_dir():
            continue
        for path in _walk(package):
            name = f"{package.name}/{path.relative_to(package).as_posix()}"
            if is_kept(name) or name == "matcha/hifigan/LICENSE":
                _read_file(files, name, path)
        for path in (package / "LICENSE", package.parent / "LICENSE"):
            if path.is_file() and f"{package.name}/LICENSE" not in files:
                _read_file(files, f"{package.name}/LICENSE", path)
    return _with_matcha_license(files)


def _name_in_wheel(name: str) -> str | None:
    """Return the name that a file of the wheel is kept under, None if it is left behind."""
    if name.endswith(".dist-info/licenses/LICENSE"):
        return "cosyvoice/LICENSE"
    inner = name.removeprefix(_IN_WHEEL)
    kept = inner != name and (is_kept(inner) or inner == "matcha/hifigan/LICENSE")
    return inner if kept else None


def _with_matcha_license(files: Files) -> Files:
    """Return `files` with Matcha's licence, which not every copy of it carries along."""
    if any(name.startswith("matcha/") for name in files):
        files.setdefault("matcha/LICENSE", _MATCHA_LICENSE.read_bytes())
    return files


def _walk(root: Path) -> list[Path]:
    """Return the files under `root` in a stable order; folders that are links are not entered."""
    found = []
    for folder, _, names in os.walk(root):
        found += [Path(folder, name) for name in names]
        if len(found) > _ENTRIES:
            raise CiError(f"{root} is far larger than upstream's code")
    return sorted(found)


def _read_file(files: Files, name: str, path: Path) -> None:
    if path.is_symlink() or not path.is_file():
        raise CiError(f"{path} is a link or no file")
    try:
        _read(files, name, path.stat().st_size, lambda: path.open("rb"))
    except OSError as error:
        raise CiError(f"{path} cannot be read: {error.strerror}") from error


def _read(files: Files, name: str, size: int, opened: Callable[[], IO[bytes] | None]) -> None:
    """Add a file of `size` bytes, as far as it was announced, to `files`."""
    kept = sum(map(len, files.values()))
    if size > _FILE_BYTES or kept + size > _KEPT_BYTES:
        raise CiError(f"{name} is far larger than upstream's")
    stream = opened()
    if stream is None:
        raise CiError(f"{name} is no file")
    with stream:
        files[name] = stream.read(size)
