"""Records on disk, each with its files in a folder that is written and removed atomically.

A folder is written under a hidden name, synced, and renamed; it is renamed to a hidden name before
it is removed. So a process may be killed at any moment, and several processes, also in other
containers, may share the root: readers need no lock, and the next writer removes leftovers.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from services.errors import NotFoundError, StorageError, UnavailableError

SETTING: Final = "BENTOVOX_SPEECH__STORE"
"""The environment variable with the root's path."""

_ABOUT: Final = "about.json"  # what makes a folder an entry; it is written last
_LOCK_WAIT_S: Final = 10.0
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NEW, _GONE = ".new-", ".gone-"

log = logging.getLogger("bentovox.voices")


class Record(BaseModel):
    """What is known of an entry."""

    model_config = ConfigDict(frozen=True)

    id: str  # from `Entries.new_id`
    created_at: int  # seconds since 1970


Kind = TypeVar("Kind", bound=Record)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Entries(Generic[Kind]):
    """All entries of a kind: `<folder>/<id>/<file>`.

    An id is `<prefix>_` and 32 hexadecimal digits, made here; anything else never becomes a path.
    Files have mode 0600 and folders 0700, as they contain recordings of people. Only who is
    `writing`, which creates the folder, may add, replace or remove. What cannot be read raises
    `StorageError`.
    """

    folder: Path
    prefix: str
    kind: type[Kind]

    def new_id(self) -> str:
        """Return an unused id."""
        return f"{self.prefix}_{secrets.token_hex(16)}"

    def is_id(self, text: str) -> bool:
        """Return whether `text` has the form of an id."""
        return re.fullmatch(f"{self.prefix}_[0-9a-f]{{32}}", text) is not None

    def path(self, entry_id: str) -> Path:
        """Return an entry's folder; `entry_id` must be an id."""
        if not self.is_id(entry_id):
            raise ValueError("not an id")
        return self.folder / entry_id

    def ids(self) -> list[str]:
        """Return the ids of all entries, in no order; one may be removed before it is read."""
        with _storage("read"):
            return [entry.name for entry in self._entries() if (entry / _ABOUT).exists()]

    def read(self, entry_id: str, file: str) -> bytes | None:
        """Return a file of an entry, or None if there is no such entry (any more)."""
        if not self.is_id(entry_id):
            return None
        with _storage("read"), suppress(FileNotFoundError):
            return (self.folder / entry_id / file).read_bytes()
        return None

    def get(self, entry_id: str) -> Kind | None:
        """Return the record of an entry; None without one or, with a warning, if it is damaged."""
        data = self.read(entry_id, _ABOUT)
        try:
            return None if data is None else self.kind.model_validate_json(data)
        except ValidationError:
            log.warning("the record of %s is damaged; it is ignored", entry_id)
            return None

    def add(self, record: Kind, files: Mapping[str, bytes], *folders: str) -> None:
        """Create an entry with files and empty folders."""
        hidden = self.folder / f"{_NEW}{record.id}"
        try:
            hidden.mkdir(mode=0o700)
            for folder in folders:
                (hidden / folder).mkdir(mode=0o700)
            for name, data in {**files, _ABOUT: _json(record)}.items():
                _write(hidden / name, data)
            _sync(hidden)
            hidden.rename(self.path(record.id))
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
        _sync(self.folder)

    def replace(self, record: Kind) -> None:
        """Replace an entry's record atomically."""
        folder = self.path(record.id)
        fresh = folder / f"{_NEW}{_ABOUT}"
        try:
            _write(fresh, _json(record))
            fresh.rename(folder / _ABOUT)
        finally:
            fresh.unlink(missing_ok=True)
        _sync(folder)

    def remove(self, entry_id: str) -> None:
        """Remove an entry and its files."""
        hidden = self.folder / f"{_GONE}{entry_id}"
        self.path(entry_id).rename(hidden)
        _sync(self.folder)
        shutil.rmtree(hidden, ignore_errors=True)  # the next sweep removes the rest

    def sweep(self) -> None:
        """Create the folder, or remove what killed processes left in it."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        left = [one for one in self.folder.iterdir() if one.name.startswith((_NEW, _GONE))]
        # An engine that writes to an entry being removed may recreate it without its record.
        left += [entry for entry in self._entries() if not (entry / _ABOUT).exists()]
        for folder in left:
            shutil.rmtree(folder, ignore_errors=True)

    def _entries(self) -> list[Path]:
        with suppress(FileNotFoundError):
            return [folder for folder in self.folder.iterdir() if self.is_id(folder.name)]
        return []


@contextmanager
def writing(root: Path, *kinds: Entries[Any], wait_s: float | None = None) -> Iterator[None]:
    """Be the only writer of a root, among all threads and processes, in a `with` block.

    What killed processes left behind is removed first. The lock is the kernel's, on a file: it is
    released even if its holder is killed. StorageError if the disk is full or the root cannot be
    written, UnavailableError if others kept writing for too long.
    """
    with _storage("written"):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(lock, time.monotonic() + (_LOCK_WAIT_S if wait_s is None else wait_s))
            for entries in kinds:
                entries.sweep()
            yield
        finally:
            os.close(lock)


def _lock(lock: int, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise UnavailableError(
                    "the voice store is busy; try again", code="store_busy", retry_after_s=1.0
                ) from error
        time.sleep(0.002)


@asynccontextmanager
async def added(
    add: Callable[[], Item], remove: Callable[[Item], object]
) -> AsyncGenerator[Item, None]:
    """Call `add` in a thread and yield its result; `remove` that if the block fails.

    A thread cannot be cancelled, so if this is, even before `add` has returned, it waits for `add`
    and undoes it.
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


def _json(record: Record) -> bytes:
    return record.model_dump_json(indent=1).encode()


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
