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
import urllib.error
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
_PINNED: Final = {"cosyvoice": COSYVOICE, "matcha": MATCHA}
_ADVICE: Final = {
    "matcha": "; check out with `--recurse-submodules`, or put it into third_party/Matcha-TTS",
}
_LIMIT_BYTES: Final = 256 << 20
_MIB: Final = 1 << 20
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


def github(base: str, *, timeout_s: float) -> Code:
    """Return families 1, 2 and 3 from GitHub, or from a mirror of its archives at `base`.

    Raises:
        CiError: it cannot be reached or is not what is pinned.
    """
    files: Files = {}
    for package, place in _ARCHIVES.items():
        data = fetch(f"{base.rstrip('/')}/{place}", timeout_s=timeout_s)
        files |= from_tarball(data, package)
    return verified(files, "GitHub's archives")


def pypi() -> Code:
    """Return families 1 and 2 from the wheel on the user's package index.

    Raises:
        CiError: it cannot be had or is not what is pinned.
    """
    with tempfile.TemporaryDirectory(prefix="bentovox-") as work:
        return verified(from_index(Path(work)), "the wheel")


def auto(base: str, *, timeout_s: float) -> Code:
    """Return the code from GitHub or, if that fails, from the package index; report which.

    Raises:
        CiError: neither has it.
    """
    try:
        return github(base, timeout_s=timeout_s)
    except CiError as error:
        say(f"Not from GitHub: {error}")
        try:
            return pypi()
        except CiError as second:
            raise CiError(
                f"neither GitHub nor the package index has it: {error}; {second}"
            ) from second


def verified(files: Files, place: str) -> Code:
    """Return `files` as verified code.

    Raises:
        CiError: a package or licence is missing, or a hash is not a pinned one.
    """
    origins = {}
    for package, pinned in _PINNED.items():
        if not any(name.startswith(f"{package}/") for name in files):
            raise CiError(f"{place}: the package {package} is missing{_ADVICE.get(package, '')}")
        if f"{package}/LICENSE" not in files:
            raise CiError(f"{place}: {package} has no LICENSE beside it, which must go with it")
        found = tree_hash(files, package)
        if found not in pinned:
            known = (f"{one[:12]}… ({at.version[:12]})" for one, at in pinned.items())
            raise CiError(
                f"{place}: {package} is not what is pinned: its files hash to {found[:12]}…, "
                f"wanted {' or '.join(known)}; nothing was kept"
            )
        origins[package] = pinned[found]
    return Code(files, origins["cosyvoice"])


def fetch(url: str, *, timeout_s: float) -> bytes:
    """Return what `url` answers; `timeout_s` bounds each wait, not the whole.

    Raises:
        CiError: it cannot be reached, refuses, breaks off or sends too much.
    """
    if not url.startswith(("https://", "http://")):
        raise CiError(f"{url} is no http or https address")
    say(f"Fetching {url}")
    request = urllib.request.Request(url, headers={"User-Agent": "bentovox"})  # noqa: S310  above
    opener = urllib.request.build_opener()  # reads the proxies of this moment
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            total = answer.headers.get("Content-Length")
            data: bytes = answer.read(_LIMIT_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            raise CiError(f"{url} answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise CiError(f"{url} cannot be reached: {reason or type(error).__name__}") from error
    if len(data) == _LIMIT_BYTES:
        raise CiError(f"{url} sends more than {_LIMIT_BYTES >> 20} MiB")
    if total is not None and str(len(data)) != total:
        raise CiError(f"{url} broke off after {len(data)} of {total} bytes")
    return data


def from_tarball(data: bytes, package: str) -> Files:
    """Return the kept files of `package`, and its licence, from GitHub's archive of a commit.

    Raises:
        CiError: it is no such archive, has a link where a file should be, or is far too large.
    """
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
    """Return the kept files and licences of a checkout, or of a copy made before.

    Raises:
        CiError: there is a link where a file should be, or it is far too large.
        OSError: a file cannot be read.
    """
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


def from_index(work: Path) -> Files:
    """Return what is kept of the wheel; `work` is an empty folder for whatever is downloaded.

    Raises:
        CiError: there is neither pip nor uv, or it failed; the message has its own last words.
    """
    requirement = work / "requirements.txt"
    requirement.write_text(f"{WHEEL}=={WHEEL_VERSION} --hash=sha256:{WHEEL_SHA256}\n")
    unpacked = work / "unpacked"
    say(f"Bringing {WHEEL} {WHEEL_VERSION} from the package index: 56 MB")
    where = (f"--requirement={requirement}", f"--target={unpacked}")
    _run(*_installer(), "install", *_EXACTLY, *where)
    code = unpacked / "xinference" / "thirdparty"
    (licence,) = unpacked.glob("*.dist-info/licenses/LICENSE")
    shutil.copyfile(licence, code / "cosyvoice" / "LICENSE")
    shutil.copyfile(_MATCHA_LICENSE, code / "matcha" / "LICENSE")  # the wheel leaves it out
    return from_folder(code)


def _installer() -> list[str]:
    """Return how to run pip or uv: this Python's own first, then what is on the PATH."""
    for name, verb in (("pip", ()), ("uv", ("pip",))):
        if importlib.util.find_spec(name):
            return [sys.executable, "-m", name, *verb]
    for name, verb in (("uv", ("pip",)), ("pip", ())):
        if found := shutil.which(name):
            return [found, *verb]
    raise CiError(f"neither pip nor uv is here to ask the package index ({sys.executable})")


def _run(*command: str) -> None:
    """Run an installer.

    Raises:
        CiError: it failed; the message is the line in which it says what went wrong.
    """
    quietly = {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_COMPILE": "1"}
    plainly = {"PIP_USER": "0", "UV_PYTHON": sys.executable}  # `--target` excludes `--user`
    done = subprocess.run(
        command,
        env={**os.environ, **quietly, **plainly},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith(("error", "cause"))]
        raise CiError(f"the package index: {(errors or lines or ['it said nothing'])[-1]}")
