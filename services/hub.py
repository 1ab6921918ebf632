"""Models from Hugging Face, cached and downloaded with its own library.

HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE apply.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger("bentovox.hub")

_WATCH_S: Final = 0.5
_LOG_S: Final = 5.0
_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_id(name: str) -> bool:
    """Return whether `name` could be a model's id, such as `Systran/faster-whisper-tiny`."""
    return _ID.fullmatch(name) is not None


class HubError(Exception):
    """The hub cannot be reached or failed; it may work later."""


class HubRefusalError(HubError):
    """There is no such model or revision, or it needs a token."""


class HubDiskError(HubError):
    """The model cannot be written."""


@dataclass(frozen=True)
class HubModel:
    """The files of one model at one revision.

    Attributes:
        repository: such as `Systran/faster-whisper-tiny`.
        wanted: patterns of the files.
        revision: commit, tag or branch.
        folder: the cache; None for the library's default.
    """

    repository: str
    wanted: tuple[str, ...]
    revision: str = "main"
    folder: Path | None = None

    @property
    def cache(self) -> Path:
        """The cache folder."""
        from huggingface_hub import constants  # noqa: PLC0415  heavy

        return self.folder or Path(constants.HF_HUB_CACHE)

    @property
    def host(self) -> str:
        """The hub's host name."""
        from huggingface_hub import constants  # noqa: PLC0415  heavy

        return str(constants.ENDPOINT).partition("//")[2]

    @property
    def is_offline(self) -> bool:
        """Whether the hub must not be contacted (HF_HUB_OFFLINE)."""
        from huggingface_hub import constants  # noqa: PLC0415  heavy

        return bool(constants.HF_HUB_OFFLINE)

    def cached(self) -> Path | None:
        """Return its folder in the cache, without network; None if it was never downloaded."""
        from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

        try:
            return self._snapshot(local_files_only=True)
        except LocalEntryNotFoundError:
            return None

    def download(self, tell: Callable[[str], None] = lambda _: None) -> Path:
        """Return its folder, downloading what is missing, which may take minutes.

        Progress goes to `tell` twice a second, and to the log every 5 s.

        Raises:
            HubRefusalError: there is no such model or revision, or it needs a token.
            HubDiskError: the disk is full or not writable.
            HubError: the hub cannot be reached.
        """
        from huggingface_hub.errors import (  # noqa: PLC0415
            GatedRepoError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        try:
            with self._watched(tell):
                return self._snapshot()
        except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError) as error:
            raise HubRefusalError(
                f"{self.host} does not give {self.repository!r} at revision {self.revision!r}: "
                "there is no such model or revision, or it wants a token (HF_TOKEN)"
            ) from error
        except Exception as error:  # the transport's errors differ between versions
            if isinstance(error, OSError) and error.errno is not None and error.filename:
                raise HubDiskError(f"{error.strerror}: {error.filename}") from error
            told = str(error).strip().splitlines() or [type(error).__name__]
            raise HubError(f"{self.host}: {told[0]}") from error

    def _snapshot(self, *, local_files_only: bool = False) -> Path:
        from huggingface_hub import snapshot_download  # noqa: PLC0415  heavy

        return Path(
            snapshot_download(
                self.repository,
                revision=self.revision,
                cache_dir=self.cache,
                allow_patterns=list(self.wanted),
                local_files_only=local_files_only,
            )
        )

    @contextmanager
    def _watched(self, tell: Callable[[str], None]) -> Iterator[None]:
        """Report a download's progress, instead of progress bars."""
        from huggingface_hub import HfApi, try_to_load_from_cache, utils  # noqa: PLC0415  heavy

        info = HfApi().model_info(self.repository, revision=self.revision, files_metadata=True)
        total = 0
        for file in info.siblings or ():
            here = try_to_load_from_cache(
                self.repository, file.rfilename, cache_dir=self.cache, revision=str(info.sha)
            )
            if not here and any(fnmatch(file.rfilename, pattern) for pattern in self.wanted):
                total += file.size or 0
        log.info(
            "%s at %s is commit %s: %.0f MB to download",
            *(self.repository, self.revision, info.sha, total / 1e6),
        )
        blobs = self.cache / f"models--{self.repository.replace('/', '--')}" / "blobs"
        before = _bytes_in(blobs)
        done = threading.Event()

        def watch() -> None:
            logged = time.monotonic()
            while not done.wait(_WATCH_S):
                share = f"{100 * (_bytes_in(blobs) - before) // max(total, 1)} %"
                tell(f"downloading {self.repository} {share}")
                if time.monotonic() - logged >= _LOG_S:
                    logged = time.monotonic()
                    log.info("downloading %s: %s", self.repository, share)

        utils.disable_progress_bars()
        thread = threading.Thread(target=watch, name="download-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_size
        except OSError:
            continue  # renamed meanwhile
    return total
