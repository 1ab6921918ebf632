"""Entries on disk: folders of files, each written and removed atomically.

An entry is written under a hidden name, synced, and renamed; it is renamed to a hidden name before
it is removed. So a process may be killed at any moment, and several processes, also in other
containers, may share the root: readers need no lock, and the next writer removes leftovers.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeVar

from services.errors import NotFoundError, StorageError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
    from pathlib import Path

Item = TypeVar("Item")

SETTING: Final = "BENTOVOX_SPEECH__STORE"
"""The environment variable with the root's path."""

ABOUT: Final = "about.json"
"""The file that makes a folder an entry; it is written last."""

_LOCK_WAIT_S: Final = 10.0
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_HIDDEN: Final = (".new-", ".gone-")


class Storage:
    """The entries of one root: `<root>/<kind>/<id>/<file>`.

    An id is `<prefix>_` and 32 hexadecimal digits, made here; anything else never becomes a path.
    Files have mode 0600 and folders 0700, as they contain recordings of people.
    """

    def __init__(self, root: Path, kinds: Mapping[str, str]) -> None:
        """Store entries under `root`, which the first write creates.

        Args:
            root: a folder for this store alone.
            kinds: the folder of each kind of entry, and the prefix of its ids.
        """
        self._root = root
        self._prefix = dict(kinds)
        self._form = {
            kind: re.compile(f"{prefix}_[0-9a-f]{{32}}") for kind, prefix in kinds.items()
        }

    def new_id(self, kind: str) -> str:
        """Return an unused id."""
        return f"{self._prefix[kind]}_{secrets.token_hex(16)}"

    def is_id(self, text: str, *kinds: str) -> bool:
        """Return whether `text` has the form of an id of one of these kinds, or of any kind."""
        return any(self._form[kind].fullmatch(text) for kind in kinds or self._form)

    def path(self, kind: str, entry_id: str) -> Path:
        """Return an entry's folder; `entry_id` must be an id."""
        if not self.is_id(entry_id, kind):
            raise ValueError("not an id")
        return self._root / kind / entry_id

    def ids(self, kind: str) -> list[str]:
        """Return the ids of all entries, in no order; one may be removed before it is read.

        Raises:
            StorageError: the folder cannot be read.
        """
        with _storage("read"):
            return [entry.name for entry in self._folders(kind) if (entry / ABOUT).exists()]

    def read(self, kind: str, entry_id: str, file: str) -> bytes | None:
        """Return a file of an entry, or None if there is no such entry (any more).

        Raises:
            StorageError: it cannot be read.
        """
        if not self.is_id(entry_id, kind):
            return None
        with _storage("read"):
            try:
                return (self._root / kind / entry_id / file).read_bytes()
            except FileNotFoundError:
                return None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only writer of this root, among all threads and processes, in a `with` block.

        Raises:
            StorageError: the disk is full or the root cannot be written; existing entries remain.
            UnavailableError: others kept writing for too long.
        """
        with _storage("written"):
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for kind in self._prefix:
                (self._root / kind).mkdir(mode=0o700, exist_ok=True)
            with _locked(self._root, _LOCK_WAIT_S):
                self._sweep()
                yield

    def add(self, kind: str, entry_id: str, files: Mapping[str, bytes], *folders: str) -> None:
        """Create an entry with files and empty folders; only while `writing`."""
        hidden = self._root / kind / f"{_HIDDEN[0]}{entry_id}"
        try:
            hidden.mkdir(mode=0o700)
            for folder in folders:
                (hidden / folder).mkdir(mode=0o700)
            for name, data in files.items():
                _write(hidden / name, data)
            _sync(hidden)
            hidden.rename(self._root / kind / entry_id)
        except BaseException:
            shutil.rmtree(hidden, ignore_errors=True)
            raise
        _sync(self._root / kind)

    def replace(self, kind: str, entry_id: str, file: str, data: bytes) -> None:
        """Replace a file atomically; only while `writing`."""
        folder = self.path(kind, entry_id)
        fresh = folder / f"{_HIDDEN[0]}{file}"
        try:
            _write(fresh, data)
            fresh.rename(folder / file)
        except BaseException:
            with suppress(OSError):
                fresh.unlink()
            raise
        _sync(folder)

    def remove(self, kind: str, entry_id: str) -> None:
        """Remove an entry and its files; only while `writing`."""
        hidden = self._root / kind / f"{_HIDDEN[1]}{entry_id}"
        self.path(kind, entry_id).rename(hidden)
        _sync(self._root / kind)
        shutil.rmtree(hidden, ignore_errors=True)  # the next sweep removes the rest

    def sweep(self) -> None:
        """Remove what killed processes left behind, if the root exists and nobody is writing."""
        if any((self._root / kind).is_dir() for kind in self._prefix):
            with suppress(OSError, UnavailableError), _locked(self._root, 0.0):
                self._sweep()

    def _sweep(self) -> None:
        for kind in self._prefix:
            left = [
                folder
                for folder in (self._root / kind).iterdir()
                if folder.name.startswith(_HIDDEN)
            ]
            # An engine that writes to an entry being removed may recreate it without its metadata.
            left += [entry for entry in self._folders(kind) if not (entry / ABOUT).exists()]
            for folder in left:
                shutil.rmtree(folder, ignore_errors=True)

    def _folders(self, kind: str) -> list[Path]:
        try:
            folders = list((self._root / kind).iterdir())
        except FileNotFoundError:
            return []
        return [folder for folder in folders if self.is_id(folder.name, kind)]


@asynccontextmanager
async def added(
    add: Callable[[], Item], remove: Callable[[Item], object]
) -> AsyncGenerator[Item, None]:
    """Call `add` in a thread and yield its result; `remove` that if the block fails.

    A thread cannot be cancelled, so if this is, even before `add` has returned, it waits for `add`
    and undoes it.

    Raises:
        Exception: whatever `add`, `remove` or the block raises.
    """
    adding = asyncio.ensure_future(asyncio.to_thread(add))
    try:
        yield await asyncio.shield(adding)
    except BaseException:
        await asyncio.wait({adding})
        if adding.exception() is None:
            with suppress(NotFoundError):  # removed by somebody else
                await asyncio.to_thread(remove, adding.result())
        raise


@contextmanager
def _locked(root: Path, wait_s: float) -> Iterator[None]:
    """Hold the root's lock file, alone among threads and processes, even if one is killed."""
    lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise UnavailableError(
                        "the voice store is busy; try again", code="store_busy", retry_after_s=1.0
                    ) from error
                time.sleep(0.002)
        yield
    finally:
        os.close(lock)


def _write(path: Path, data: bytes) -> None:
    """Write a file and sync it to disk."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Sync a folder's entries to disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _storage(verb: str) -> Iterator[None]:
    """Turn an `OSError` into an error that a client may see, without a path."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageError(
                "the voice store is full and nothing was stored; the operator must make room on "
                f"the disk of {SETTING}",
                code="storage_full",
            ) from error
        raise StorageError(
            f"the voice store cannot be {verb} ({os.strerror(error.errno or errno.EIO)}); the "
            f"operator must set {SETTING} to a folder that the speech role can write",
            code="storage_unavailable",
        ) from error
