"""The ways to upstream's code: GitHub, the user's package index, a folder that has it already.

Whatever is fetched is read into memory within bounds, and no name in it becomes a path before the
hash of all files has been verified. The wheel on the index is had through the user's own pip or uv,
so that whatever reaches other packages on this machine reaches this one; it is never installed into
an environment.
"""

from __future__ import annotations

import http.client
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from ci.cosyvoice.pins import (
    COSYVOICE,
    COSYVOICE_COMMIT,
    MATCHA,
    MATCHA_COMMIT,
    WHEEL,
    WHEEL_SHA256,
    WHEEL_VERSION,
    Files,
    Origin,
    is_kept,
    tree_hash,
)
from ci.errors import CiError
from ci.terminal import say

GITHUB: Final = "https://github.com"
_ARCHIVES: Final = {
    "cosyvoice": f"FunAudioLLM/CosyVoice/archive/{COSYVOICE_COMMIT}.tar.gz",
    "matcha": f"shivammehta25/Matcha-TTS/archive/{MATCHA_COMMIT}.tar.gz",
}
_ADVICE: Final = {
    "matcha": "; check out with `--recurse-submodules`, or put it into third_party/Matcha-TTS",
}
_WAIT_S: Final = 20.0
_MIB: Final = 1 << 20
_LIMIT_BYTES: Final = 256 * _MIB
_FILE_BYTES: Final = 8 * _MIB
_KEPT_BYTES: Final = 64 * _MIB
_UNPACKED_BYTES: Final = 1024 * _MIB
_MATCHA_IN_CHECKOUT: Final = ("matcha", "third_party/Matcha-TTS/matcha")
_MATCHA_LICENSE: Final = Path(__file__).with_name("matcha-license.txt")
_EXACTLY: Final = ("--no-deps", "--only-binary=:all:", "--require-hashes", "--quiet")


@dataclass(frozen=True)
class Code:
    """Verified files: both packages and their licences; `origin` is that of `cosyvoice`."""

    files: Files
    origin: Origin


def github(base: str = GITHUB) -> Code:
    """Return families 1, 2 and 3 from GitHub, or from a mirror of its archives at `base`."""
    files: Files = {}
    for package, place in _ARCHIVES.items():
        files |= from_tarball(_fetch(f"{base.rstrip('/')}/{place}"), package)
    return verified(files, "GitHub's archives")


def pypi() -> Code:
    """Return families 1 and 2 from the wheel on the user's package index."""
    say(f"Bringing {WHEEL} {WHEEL_VERSION} from the package index: 56 MB")
    quietly = {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_COMPILE": "1"}
    plainly = {"PIP_USER": "0", "UV_PYTHON": sys.executable}  # `--target` excludes `--user`
    with tempfile.TemporaryDirectory(prefix="bentovox-") as folder:
        requirement, unpacked = Path(folder, "requirements.txt"), Path(folder, "unpacked")
        requirement.write_text(f"{WHEEL}=={WHEEL_VERSION} --hash=sha256:{WHEEL_SHA256}\n")
        where = (f"--requirement={requirement}", f"--target={unpacked}")
        command = [*_installer(), "install", *_EXACTLY, *where]
        environ = {**os.environ, **quietly, **plainly}
        if subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, check=False).returncode:
            raise CiError(f"the package index: {WHEEL} cannot be had, for the reason above")
        code = unpacked / "xinference" / "thirdparty"
        (licence,) = unpacked.glob("*.dist-info/licenses/LICENSE")
        shutil.copyfile(licence, code / "cosyvoice" / "LICENSE")
        shutil.copyfile(_MATCHA_LICENSE, code / "matcha" / "LICENSE")  # the wheel leaves it out
        return verified(from_folder(code), "the wheel")


def verified(files: Files, place: str) -> Code:
    """Return `files` as code, if both packages, their licences and their hashes are right."""
    for package, pinned in (("cosyvoice", COSYVOICE), ("matcha", MATCHA)):
        if not any(name.startswith(f"{package}/") for name in files):
            raise CiError(f"{place}: the package {package} is missing{_ADVICE.get(package, '')}")
        if f"{package}/LICENSE" not in files:
            raise CiError(f"{place}: {package} has no LICENSE beside it, which must go with it")
        if tree_hash(files, package) not in pinned:
            where = "in ci/cosyvoice/pins.py; nothing was kept"
            raise CiError(f"{place}: {package} is not what is pinned {where}")
    return Code(files, COSYVOICE[tree_hash(files, "cosyvoice")])


def _fetch(url: str) -> bytes:
    """Return what `url` answers; the time bounds each wait, not the whole."""
    if not url.startswith(("https://", "http://")):
        raise CiError(f"{url} is no http or https address")
    say(f"Fetching {url}")
    request = urllib.request.Request(url, headers={"User-Agent": "bentovox"})  # noqa: S310  above
    opener = urllib.request.build_opener()  # reads the proxies of this moment
    try:
        with opener.open(request, timeout=_WAIT_S) as answer:
            data: bytes = answer.read(_LIMIT_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise CiError(f"{url} cannot be had: {error}") from error
    if len(data) == _LIMIT_BYTES:
        raise CiError(f"{url} sends more than {_LIMIT_BYTES >> 20} MiB")
    return data


def from_tarball(data: bytes, package: str) -> Files:
    """Return the kept files of `package`, and its licence, from GitHub's archive of a commit."""
    files: Files = {}
    unpacked = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            for member in archive:
                unpacked += max(member.size, 0)
                if unpacked > _UNPACKED_BYTES:
                    raise CiError("GitHub's archive is far larger than upstream's code")
                name = member.name.partition("/")[2]  # without the folder named for the commit
                if name == "LICENSE":
                    name = f"{package}/LICENSE"
                elif not (is_kept(name) and name.startswith(f"{package}/")):
                    continue
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is None:
                    raise CiError(f"GitHub's archive: {member.name} is a link or no file")
                _read(files, name, stream)
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        raise CiError(f"GitHub's archive of {package} cannot be read: {error}") from error
    return files


def from_folder(folder: Path) -> Files:
    """Return the kept files and licences of a checkout, or of a copy made before."""
    files: Files = {}
    for package in (folder / "cosyvoice", *(folder / place for place in _MATCHA_IN_CHECKOUT)):
        licence = f"{package.name}/LICENSE"
        # Links to folders are not followed.
        for path in sorted(Path(at, name) for at, _, names in os.walk(package) for name in names):
            name = f"{package.name}/{path.relative_to(package).as_posix()}"
            if is_kept(name) or name in {licence, "matcha/hifigan/LICENSE"}:
                if path.is_symlink() or not path.is_file():
                    raise CiError(f"{path} is a link or no file")
                _read(files, name, path.open("rb"))
        if package.is_dir() and licence not in files and (package.parent / "LICENSE").is_file():
            _read(files, licence, (package.parent / "LICENSE").open("rb"))
    return files


def _read(files: Files, name: str, stream: IO[bytes]) -> None:
    """Add a file to `files`, unless that makes them far larger than upstream's."""
    with stream:
        content = stream.read(_FILE_BYTES + 1)
    if len(content) > _FILE_BYTES or sum(map(len, files.values())) + len(content) > _KEPT_BYTES:
        raise CiError(f"{name} is far larger than upstream's")
    files[name] = content


def _installer() -> list[str]:
    """Return how to run pip or uv: this Python's own first, then what is on the PATH."""
    for name, verb in (("pip", ()), ("uv", ("pip",))):
        if importlib.util.find_spec(name):
            return [sys.executable, "-m", name, *verb]
    for name, verb in (("uv", ("pip",)), ("pip", ())):
        if found := shutil.which(name):
            return [found, *verb]
    raise CiError(f"neither pip nor uv is here to ask the package index ({sys.executable})")
