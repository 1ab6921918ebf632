"""`python -m ci cosyvoice`: bring upstream's CosyVoice code to this machine.

Upstream is on no package index. GitHub has families 1, 2 and 3; the wheel `xinference` on PyPI has
a copy of families 1 and 2, for machines that reach an index only. Either is verified against hashes
in this repository, and only what inference needs is kept. This needs nothing but Python.

In an image, `ADD https://github.com/FunAudioLLM/CosyVoice.git#COMMIT /upstream` brings the commit
with its submodule, and `python -m ci cosyvoice --from-dir /upstream` verifies and takes it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci.cosyvoice import install, sources
from ci.cosyvoice.archives import from_folder
from ci.terminal import result

if TYPE_CHECKING:
    import argparse

    from ci.cosyvoice.pins import Origin
    from ci.cosyvoice.sources import Code

_SETTING: Final = "BENTOVOX_SPEECH__COSYVOICE__CODE"
_TRIAL_S: Final = 10.0
_WAIT_S: Final = 60.0
_NEWEST: Final = 3


def default_folder() -> Path:
    """Return the folder that the speech service looks in."""
    if setting := os.environ.get(_SETTING):
        return Path(setting).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "bentovox" / "cosyvoice"


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.add_argument(
        "--into",
        type=Path,
        metavar="DIR",
        help=f"folder to make (default: ${_SETTING}, or {default_folder()})",
    )
    parser.add_argument(
        "--from",
        dest="source",
        choices=("auto", "github", "pypi"),
        default="auto",
        help="auto: keep what is valid, else try GitHub, then the package index (default: auto)",
    )
    parser.add_argument(
        "--from-dir",
        type=Path,
        metavar="PATH",
        help="take a checkout with its submodule, or an earlier copy; needs no network",
    )
    parser.add_argument(
        "--github-url",
        default=sources.GITHUB,
        metavar="URL",
        help="a mirror of GitHub's archives (default: %(default)s)",
    )


def work(given: argparse.Namespace) -> None:
    """Bring the code, unless it is there and valid."""
    into = Path(given.into or default_folder()).expanduser().absolute()
    with install.alone(into):
        origin, where = install.there(into), "is already in"
        if origin is None or not _is_enough(origin, given):
            code = _get(given)
            install.put(code, into)
            origin, where = code.origin, "is in"
    families = ", ".join(map(str, origin.families))
    known = f"families {families}; {origin.source} {origin.version}"
    result(f"CosyVoice's code {where} {into} ({known})")
    if _NEWEST not in origin.families:
        result("Family 3 is missing: only GitHub has it (`--from github`)")


def _is_enough(origin: Origin, given: argparse.Namespace) -> bool:
    """Tell whether what is there was asked for; `--from-dir` is always read again."""
    return not given.from_dir and given.source in {"auto", origin.source}


def _get(given: argparse.Namespace) -> Code:
    if given.from_dir:
        return sources.verified(from_folder(given.from_dir), str(given.from_dir))
    if given.source == "pypi":
        return sources.pypi()
    if given.source == "github":
        return sources.github(given.github_url, timeout_s=_WAIT_S)
    return sources.auto(given.github_url, timeout_s=_TRIAL_S)
