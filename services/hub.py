"""Models from Hugging Face, and from package indexes for machines that reach no other.

The first are cached and downloaded with its own library: HF_HOME, HF_ENDPOINT, HF_TOKEN and
HF_HUB_OFFLINE apply. The others were put on an index by third parties. They are fetched like
packages, by name and hash, and never installed: files are taken out of the wheels.
UV_DEFAULT_INDEX or PIP_INDEX_URL names the index; SSL_CERT_FILE and proxies apply.
"""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import os
import re
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from html import unescape
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

log = logging.getLogger("bentovox.hub")

_WATCH_S: Final = 0.5
_LOG_S: Final = 5.0
_PYPI: Final = "https://pypi.org/simple"
_INDEX: Final = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
_SILENCE_S: Final = 60.0
_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_id(name: str) -> bool:
    """Return whether `name` could be a model's id, such as `Systran/faster-whisper-tiny`."""
    return _ID.fullmatch(name) is not None


class HubError(Exception):
    """The hub cannot be reached or failed; it may work later."""


class HubRefusalError(HubError):
    """No such model or revision, or it needs a token; or it cannot be written."""


@dataclass(frozen=True)
class HubModel:
    """The files of one model at one revision."""

    repository: str  # such as Systran/faster-whisper-tiny
    wanted: tuple[str, ...]  # patterns of files
    revision: str = "main"  # commit, tag or branch
    folder: Path | None = None  # the cache; None for the library's default

    @property
    def cache(self) -> Path:
        """The cache folder."""
        return self.folder or Path(_hub().HF_HUB_CACHE)

    @property
    def host(self) -> str:
        """The hub's host name."""
        return str(_hub().ENDPOINT).partition("//")[2]

    @property
    def is_offline(self) -> bool:
        """Whether the hub must not be contacted (HF_HUB_OFFLINE)."""
        return bool(_hub().HF_HUB_OFFLINE)

    def cached(self) -> Path | None:
        """Return its folder in the cache, without network; None if it was never downloaded."""
        from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

        try:
            return self._snapshot(local_files_only=True)
        except LocalEntryNotFoundError:
            return None

    def download(self, tell: Callable[[str], None] = lambda _: None) -> Path:
        """Return its folder, downloading what is missing, which may take minutes.

        Progress goes to `tell` twice a second, and to the log every 5 s. HubRefusalError if there
        is no such model or revision, if it needs a token, or the disk cannot be written; HubError
        if the hub cannot be reached.
        """
        from huggingface_hub.errors import (  # noqa: PLC0415
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        try:
            with self._watched(tell):
                return self._snapshot()
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise HubRefusalError(
                f"{self.host} does not give {self.repository!r} at revision {self.revision!r}: "
                "there is no such model or revision, or it wants a token (HF_TOKEN)"
            ) from error
        except Exception as error:  # the transport's errors differ between versions
            if isinstance(error, OSError) and error.errno is not None and error.filename:
                raise HubRefusalError(f"{error.strerror}: {error.filename}") from error
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


def _hub() -> Any:
    from huggingface_hub import constants  # noqa: PLC0415  heavy

    return constants


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_size
        except OSError:
            continue  # renamed meanwhile
    return total


class PackageError(Exception):
    """The index cannot be reached, or has not got the file, or has another one."""


@dataclass(frozen=True, order=True)
class Wheel:
    """A wheel without code that runs."""

    file: str  # its name, which begins with that of the project
    sha256: str

    @property
    def project(self) -> str:
        """The name of its project on an index."""
        return self.file.partition("-")[0].replace("_", "-")


@dataclass(frozen=True)
class PackagedModel:
    """A model's files, and the wheels that they are in."""

    name: str  # of the folder that they are put in; another name for other contents
    files: dict[str, tuple[tuple[Wheel, str], ...]]  # members of wheels, joined in this order
    about: str  # whose it is, and under which licence

    def cached(self, cache: Path) -> Path | None:
        """Return its folder in a cache, without network; None if it was never downloaded."""
        folder = cache / f"packages--{self.name}"
        return folder if folder.is_dir() else None

    def download(self, cache: Path, tell: Callable[[str], None]) -> Path:
        """Download it into a cache and return its folder; PackageError if that cannot be done."""
        folder = cache / f"packages--{self.name}"
        part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        index = next((os.environ[name] for name in _INDEX if os.environ.get(name)), _PYPI)
        host = urlsplit(index).hostname
        log.info("taking %s from %s: %s", self.name, host, self.about)
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            wheels = {wheel for members in self.files.values() for wheel, _ in members}
            zips = {
                wheel: zipfile.ZipFile(io.BytesIO(_bytes_of(wheel, index, tell)))
                for wheel in sorted(wheels)
            }
            for name, members in self.files.items():
                with (part / name).open("wb") as file:
                    for wheel, member in members:
                        with zips[wheel].open(member) as source:
                            shutil.copyfileobj(source, file)
            if not folder.is_dir():  # nobody else was quicker
                part.rename(folder)
        except (HTTPException, OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise PackageError(f"{host}: {error}") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return folder


def _bytes_of(wheel: Wheel, index: str, tell: Callable[[str], None]) -> bytearray:
    """Download a wheel from an index."""
    with _opened(f"{index.rstrip('/')}/{wheel.project}/", index) as answer:
        page, text = answer.url, answer.read().decode(errors="replace")
    link = re.search(
        r"""href=["']([^"']*/""" + re.escape(wheel.file) + r"""(?:#[^"']*)?)["']""", text
    )
    if link is None:
        raise PackageError(f"{urlsplit(page).hostname} has no {wheel.file}")
    data = bytearray()
    with _opened(urljoin(page, unescape(link[1])), index) as answer:
        total = answer.length or 0
        while piece := answer.read(1 << 20):
            data += piece
            share = f"{100 * len(data) // total} %" if total else f"{len(data) / 1e6:.0f} MB"
            tell(f"downloading {wheel.project} {share}")
    seen = hashlib.sha256(data).hexdigest()
    if seen != wheel.sha256:
        raise PackageError(
            f"{urlsplit(page).hostname} has another {wheel.file}: its hash is {seen}"
        )
    return data


def _opened(url: str, index: str) -> Any:
    return build_opener(_Redirects(index)).open(_request(url, index), timeout=_SILENCE_S)


class _Redirects(HTTPRedirectHandler):
    """Follows an index to other hosts without its credentials, which the base class would send."""

    def __init__(self, index: str) -> None:
        self._index = index

    def redirect_request(self, *about: Any) -> Request:
        return _request(about[-1], self._index)


def _request(url: str, index: str) -> Request:
    """Ask for a URL, on the index's own host with the credentials in its address."""
    parts, known = urlsplit(url), urlsplit(index)
    place = parts.netloc.rpartition("@")[2]
    asked = Request(parts._replace(netloc=place, fragment="").geturl())  # noqa: S310  the operator's
    if known.username and (parts.scheme, place) == (known.scheme, known.netloc.rpartition("@")[2]):
        secret = f"{unquote(known.username)}:{unquote(known.password or '')}"
        asked.add_header("authorization", f"Basic {base64.b64encode(secret.encode()).decode()}")
    return asked
