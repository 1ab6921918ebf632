"""Where a model's files are: a directory, Hugging Face's cache, or Hugging Face itself."""

from __future__ import annotations

import logging
import re
import threading
import time
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

log = logging.getLogger("bentovox.transcription")

_SIZES: Final = {
    **{
        size: f"Systran/faster-whisper-{size}"
        for size in (
            *("tiny", "tiny.en", "base", "base.en", "small", "small.en", "medium", "medium.en"),
            *("large-v1", "large-v2", "large-v3"),
        )
    },
    "large": "Systran/faster-whisper-large-v3",
    "distil-small.en": "Systran/faster-distil-whisper-small.en",
    "distil-medium.en": "Systran/faster-distil-whisper-medium.en",
    "distil-large-v2": "Systran/faster-distil-whisper-large-v2",
    "distil-large-v3": "Systran/faster-distil-whisper-large-v3",
    "distil-large-v3.5": "distil-whisper/distil-large-v3.5-ct2",
    "large-v3-turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
    "turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
}
"""As `faster_whisper.utils` has them; a test compares. Here: that module imports all the others."""

_NEEDED: Final = ("model.bin", "config.json", "tokenizer.json")
_WANTED: Final = (*_NEEDED, "preprocessor_config.json", "vocabulary.*")
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_PATH: Final = re.compile(r"[/~.]")
_SETTING: Final = "BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL"
_WATCH_S: Final = 0.5
_TELL_S: Final = 5.0


class NoModelError(Exception):
    """There is no model for now; the message says how to get one.

    Attributes:
        is_final: nothing but the operator will change that.
    """

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        """Keep the message, one line."""
        super().__init__(message)
        self.is_final = is_final


class Source:
    """What the setting `model` names."""

    def __init__(self, model: str, revision: str = "", cache: Path | None = None) -> None:
        """Look at the name; asks nobody.

        Args:
            model: a size, a hub's id or a directory, which need not be there yet.
            revision: commit, tag or branch on the hub; empty: its main branch.
            cache: folder for downloads; None: that of the hub's own tools.

        Raises:
            ConfigurationError: it can be none of these.
        """
        self.repository = _SIZES.get(model, "")
        self.directory: Path | None = None
        self._revision = revision or None
        self._cache = cache
        if self.repository:
            self.names: tuple[str, ...] = (model, self.repository)
        elif _PATH.match(model) or Path(model).is_dir():
            self.directory = Path(model).expanduser()
            self.names = (self.directory.absolute().name,)  # where it lies is no client's business
        elif _HUB_ID.fullmatch(model):
            self.repository = model
            self.names = (model,)
        else:
            raise ConfigurationError(
                f"model {model!r} is neither a directory nor a Hugging Face id such as "
                f"Systran/faster-whisper-tiny nor one of {', '.join(_SIZES)}",
                param="model",
            )

    def find(self, tell: Callable[[str], None]) -> Path:
        """Return the folder of the files, downloading what is missing; may take minutes.

        A model that is whole in the cache is taken as it is, without a word to the hub.

        Args:
            tell: is told how far a download is.

        Raises:
            NoModelError: it cannot be had.
        """
        if self.directory is not None:
            _check(self.directory)
            return self.directory
        from huggingface_hub import constants  # noqa: PLC0415  heavy

        cache = self._cache or Path(constants.HF_HUB_CACHE)
        if (found := self._cached(cache)) is not None:
            return found
        remedy = (
            f"run `hf download {self.repository}"
            f"{f' --revision {self._revision}' if self._revision else ''}"
            f"{f' --cache-dir {self._cache}' if self._cache else ''}`, "
            f"or set {_SETTING} to a directory"
        )
        if constants.HF_HUB_OFFLINE:
            raise NoModelError(
                f"no model: {self.repository} is not whole in {cache}, and downloads are off "
                f"(HF_HUB_OFFLINE); with a network {remedy}",
                is_final=True,
            )
        found = self._downloaded(cache, remedy, tell)
        _check(found)
        return found

    def _cached(self, cache: Path) -> Path | None:
        from huggingface_hub import snapshot_download  # noqa: PLC0415  heavy
        from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

        try:
            found = Path(
                snapshot_download(
                    self.repository,
                    revision=self._revision,
                    cache_dir=cache,
                    allow_patterns=list(_WANTED),
                    local_files_only=True,
                )
            )
            _check(found)
        except (LocalEntryNotFoundError, NoModelError):
            return None
        return found

    def _downloaded(self, cache: Path, remedy: str, tell: Callable[[str], None]) -> Path:
        from huggingface_hub import constants, snapshot_download  # noqa: PLC0415  heavy
        from huggingface_hub.errors import (  # noqa: PLC0415
            GatedRepoError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        host = constants.ENDPOINT.partition("//")[2]
        try:
            with self._watched(cache, tell):
                found = snapshot_download(
                    self.repository,
                    revision=self._revision,
                    cache_dir=cache,
                    allow_patterns=list(_WANTED),
                )
        except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError) as error:
            raise NoModelError(
                f"no model: {host} does not give {self.repository!r} at revision "
                f"{self._revision or 'main'!r}: there is none, or it wants a token (HF_TOKEN)"
            ) from error
        except OSError as error:  # the transport's errors are among these, and a full disk
            if error.errno is not None and error.filename is not None:
                raise NoModelError(f"no model: {error.strerror}: {error.filename}") from error
            raise _unreachable(host, remedy, error) from error
        except Exception as error:  # which differ from version to version
            raise _unreachable(host, remedy, error) from error
        return Path(found)

    @contextmanager
    def _watched(self, cache: Path, tell: Callable[[str], None]) -> Iterator[None]:
        """Tell how far a download is, in the place of bars."""
        from huggingface_hub import HfApi, try_to_load_from_cache, utils  # noqa: PLC0415  heavy

        info = HfApi().model_info(self.repository, revision=self._revision, files_metadata=True)
        total = 0
        for file in info.siblings or ():
            here = try_to_load_from_cache(
                self.repository, file.rfilename, cache_dir=cache, revision=str(info.sha)
            )
            if not here and any(fnmatch(file.rfilename, pattern) for pattern in _WANTED):
                total += file.size or 0
        log.info("%s is commit %s: %.0f MB to get", self.repository, info.sha, total / 1e6)
        blobs = cache / f"models--{self.repository.replace('/', '--')}" / "blobs"
        before = _bytes_in(blobs)
        done = threading.Event()

        def watch() -> None:
            told = time.monotonic()
            while not done.wait(_WATCH_S):
                here = _bytes_in(blobs) - before
                share = f"{100 * here // total} %" if total else f"{here / 1e6:.0f} MB"
                tell(f"downloading {self.repository} {share}")
                if time.monotonic() - told >= _TELL_S:
                    told = time.monotonic()
                    log.info("downloading %s: %s", self.repository, share)

        had_bars = not utils.are_progress_bars_disabled()
        utils.disable_progress_bars()
        thread = threading.Thread(target=watch, name="whisper-download", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            if had_bars:
                utils.enable_progress_bars()


def _unreachable(host: str, remedy: str, error: Exception) -> NoModelError:
    told = str(error).strip().splitlines() or [""]
    log.warning("%s: %s: %s", host, type(error).__name__, told[0])
    return NoModelError(f"no model: {host} cannot be reached; on a machine with a network {remedy}")


def _check(folder: Path) -> None:
    """Return if a folder has what a CTranslate2 Whisper consists of."""
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if not missing and not any(folder.glob("vocabulary.*")):
        missing = ["vocabulary.json"]
    if not missing:
        return
    if not folder.is_dir():
        raise NoModelError(f"no model: {folder} is no directory")
    if (folder / "model.safetensors").is_file() or (folder / "pytorch_model.bin").is_file():
        raise NoModelError(
            f"no model: {folder} holds PyTorch's weights; run `ct2-transformers-converter --model "
            f"{folder} --output_dir NEW --copy_files tokenizer.json preprocessor_config.json` and "
            f"set {_SETTING} to NEW"
        )
    raise NoModelError(
        f"no model: {folder} is no CTranslate2 Whisper: it lacks {', '.join(missing)}"
    )


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_size
        except OSError:
            continue  # renamed meanwhile
    return total


__all__: Sequence[str] = ("NoModelError", "Source")
