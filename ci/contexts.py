"""Build contexts that are the same, to the last byte, for the same inputs."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from typing import TYPE_CHECKING, Final

from ci.errors import CiError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EPOCH: Final = 315532800
"""1980-01-01: the time of every file in an image, so that equal inputs give equal layers."""


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a folder to one build; another of the same checkout waits until it is done."""
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def epoch() -> int:
    """Return the time that files get, in seconds: SOURCE_DATE_EPOCH where it is set.

    Raises:
        CiError: it is no number of seconds.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH", str(EPOCH))
    if not given.isdecimal():
        raise CiError(f"SOURCE_DATE_EPOCH is {given!r}: give whole seconds since 1970, or unset it")
    return int(given)


def settle(folder: Path) -> None:
    """Give everything in a folder the same time, and modes that let any user read it."""
    at = epoch()
    for path in [*sorted(folder.rglob("*"), reverse=True), folder]:
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        os.utime(path, (at, at))


def digest(folder: Path) -> str:
    """Return 12 hexadecimal digits for the paths, modes and contents of all in a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(f"\0{path.relative_to(folder)}\0{path.stat().st_mode:o}\0".encode())
        if path.is_file():
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:12]


def named(folder: Path) -> Path:
    """Settle a build context, add its time and content to its name, and return its new path.

    An engine keeps the context it was sent under the folder's name, whatever the path above, and of
    the next context of that name it takes only files with another size or time. It would miss some
    here, and the folders of the others would get the time of the build.
    """
    settle(folder)
    name = f"{folder.name}-{epoch()}-{digest(folder)}"
    for old in folder.parent.glob(f"{folder.name}-*"):
        shutil.rmtree(old)
    return folder.rename(folder.with_name(name))
