"""What ModelScope answers when it lists a model: path, size and SHA-256 of each file.

A revision that does not exist is answered with status 200 and `Files: null`.
"""

from __future__ import annotations

import hashlib
import http.client
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from services.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub lists it; `sha256` is empty where it does not say."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Listing:
    """The files wanted of one revision.

    Attributes:
        commit: that the revision stands for, as far as the hub says.
        files: in order of path.
    """

    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def folder(self) -> str:
        """Return the name of its folder, which is one for the same contents."""
        told = "".join(f"{file.path}\0{file.size_bytes}\0{file.sha256}\n" for file in self.files)
        return hashlib.sha256(told.encode()).hexdigest()[:16]


def read_listing(answer: dict[str, Any], revision: str, wanted: Sequence[str]) -> Listing | None:
    """Return the files that match `wanted`, None if there is no such model or revision.

    Raises:
        ConfigurationError: it lists a path outside the model.
    """
    data = answer.get("Data") or {}
    listed = data.get("Files")
    if answer.get("Code") != http.client.OK or not listed:
        return None
    files = (_remote_file(entry) for entry in listed if entry.get("Type") != "tree")
    chosen = (file for file in files if any(fnmatch(file.path, name) for name in wanted))
    ordered = sorted(chosen, key=lambda file: file.path)
    return Listing(_commit_of(revision, data, listed), tuple(ordered))


def _remote_file(entry: dict[str, Any]) -> RemoteFile:
    path = str(entry.get("Path", ""))
    if path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise ConfigurationError(f"ModelScope lists a file outside the model: {path!r}")
    return RemoteFile(path, int(entry.get("Size") or 0), str(entry.get("Sha256") or "").lower())


def _commit_of(revision: str, data: dict[str, Any], listed: list[dict[str, Any]]) -> str:
    """Return the commit behind a revision: the hub gives its head, often only its first digits."""
    if _COMMIT.fullmatch(revision):
        return revision
    head = data.get("LatestCommitter") or {}
    known = [str(entry.get("Revision") or "") for entry in listed]
    short = str(head.get("Id") or head.get("ShortId") or "")
    return next((commit for commit in known if short and commit.startswith(short)), short)
