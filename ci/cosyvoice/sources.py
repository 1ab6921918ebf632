"""The ways to upstream's code: GitHub, a package index, a folder that has it already."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci.cosyvoice.archives import from_tarball
from ci.cosyvoice.fetch import fetch
from ci.cosyvoice.index import from_index
from ci.cosyvoice.pins import COSYVOICE, COSYVOICE_COMMIT, MATCHA, MATCHA_COMMIT, tree_hash
from ci.errors import CiError
from ci.terminal import say

if TYPE_CHECKING:
    from ci.cosyvoice.pins import Files, Origin

GITHUB: Final = "https://github.com"
_ARCHIVES: Final = {
    "cosyvoice": f"FunAudioLLM/CosyVoice/archive/{COSYVOICE_COMMIT}.tar.gz",
    "matcha": f"shivammehta25/Matcha-TTS/archive/{MATCHA_COMMIT}.tar.gz",
}
_PINNED: Final = {"cosyvoice": COSYVOICE, "matcha": MATCHA}
_ADVICE: Final = {
    "matcha": "; check out with `--recurse-submodules`, or put it into third_party/Matcha-TTS",
}


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
