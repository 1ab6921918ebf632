"""A model from Hugging Face, through its own library and in its own cache."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.errors import ConfigurationError
from services.speech.engines.cosyvoice.hub import HubError
from services.speech.engines.cosyvoice.meter import Meter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

log = logging.getLogger("bentovox.speech")

_WATCH_S: Final = 1.0


class HuggingFace:
    """One model on Hugging Face; see `hub.Hub`. HF_HOME, HF_ENDPOINT and HF_TOKEN count."""

    branch = "main"

    def __init__(self, model: str, cache: Path | None) -> None:
        """Import the library; nothing is read or written yet."""
        from huggingface_hub import constants  # noqa: PLC0415  heavy

        self._model = model
        self._endpoint: str = constants.ENDPOINT
        self.cache = cache or Path(constants.HF_HUB_CACHE)
        self.is_offline: bool = constants.HF_HUB_OFFLINE

    def cached(self, revision: str, wanted: Sequence[str]) -> Path | None:
        """Return the folder in the cache; see `hub.Hub.cached`."""
        from huggingface_hub import snapshot_download  # noqa: PLC0415  heavy
        from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

        try:
            found = snapshot_download(
                self._model,
                revision=revision,
                cache_dir=self.cache,
                allow_patterns=list(wanted),
                local_files_only=True,
            )
        except LocalEntryNotFoundError:
            return None
        return Path(found)

    def download(self, revision: str, wanted: Sequence[str]) -> Path:
        """Return the folder, filled; see `hub.Hub.download`."""
        from huggingface_hub import snapshot_download  # noqa: PLC0415  heavy
        from huggingface_hub.errors import (  # noqa: PLC0415
            GatedRepoError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        try:
            with self._watched(revision, wanted):
                found = snapshot_download(
                    self._model,
                    revision=revision,
                    cache_dir=self.cache,
                    allow_patterns=list(wanted),
                )
        except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError) as error:
            raise ConfigurationError(
                f"Hugging Face does not give {self._model!r} at revision {revision!r}: there is "
                "no such model or revision, or it wants a token (HF_TOKEN)",
                param="model",
            ) from error
        except Exception as error:  # its transport's errors differ from version to version
            told = str(error).strip().splitlines() or [type(error).__name__]
            raise HubError(f"Hugging Face ({self._endpoint}): {told[0]}") from error
        return Path(found)

    @contextmanager
    def _watched(self, revision: str, wanted: Sequence[str]) -> Iterator[None]:
        """Log the commit and the size of a download, and how far it is, in the place of bars."""
        from huggingface_hub import HfApi, try_to_load_from_cache, utils  # noqa: PLC0415  heavy

        info = HfApi().model_info(self._model, revision=revision, files_metadata=True)
        commit = str(info.sha)
        total = 0
        for file in info.siblings or ():
            here = try_to_load_from_cache(
                self._model, file.rfilename, cache_dir=self.cache, revision=commit
            )
            if any(fnmatch(file.rfilename, pattern) for pattern in wanted) and not here:
                total += file.size or 0
        log.info("%s at %s is commit %s: %.0f MB", self._model, revision, commit, total / 1e6)
        blobs = self.cache / f"models--{self._model.replace('/', '--')}" / "blobs"
        before = _bytes_in(blobs)
        meter = Meter(self._model, total)
        done = threading.Event()

        def watch() -> None:
            while not done.wait(_WATCH_S):
                meter.at(_bytes_in(blobs) - before)

        had_bars = not utils.are_progress_bars_disabled()
        utils.disable_progress_bars()
        thread = threading.Thread(target=watch, name="download-meter", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            if had_bars:
                utils.enable_progress_bars()


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_size
        except OSError:
            continue  # renamed meanwhile
    return total
