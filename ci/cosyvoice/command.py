"""`python -m ci cosyvoice`: bring upstream's CosyVoice code to this machine.

Upstream is on no package index. GitHub has families 1, 2 and 3; the wheel `xinference` on PyPI has
a copy of families 1 and 2, for machines that reach an index only. Either is verified against hashes
in this repository, and only what inference needs is kept. This needs nothing but Python.

In an image, `ADD https://github.com/FunAudioLLM/CosyVoice.git#COMMIT /upstream` brings the commit
with its submodule, and `python -m ci cosyvoice --from-dir /upstream` verifies and takes it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from ci.cosyvoice import sources
from ci.cosyvoice.pins import Origin
from ci.cosyvoice.sources import Code
from ci.errors import CiError
from ci.paths import alone
from ci.terminal import result, say

_SETTING: Final = "BENTOVOX_SPEECH__COSYVOICE__CODE"
_NEWEST: Final = 3
SOURCE: Final = "source.json"
"""The file that says what the code is; a folder without it is not ours."""


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
    """Bring the code, unless it is there and valid; `--from-dir` is always read again."""
    into = Path(given.into or default_folder()).expanduser().absolute()
    with alone(into.parent):
        for left in into.parent.glob(f".{into.name}.*.part"):  # of one that was killed
            shutil.rmtree(left, ignore_errors=True)
        origin, where = there(into), "is already in"
        if given.from_dir or origin is None or given.source not in {"auto", origin.source}:
            code = bring(given.source, given.github_url, given.from_dir)
            put(code, into)
            origin, where = code.origin, "is in"
    families = ", ".join(map(str, origin.families))
    known = f"families {families}; {origin.source} {origin.version}"
    result(f"CosyVoice's code {where} {into} ({known})")
    if _NEWEST not in origin.families:
        result("Family 3 is missing: only GitHub has it (`--from github`)")


def bring(source: str = "auto", url: str = sources.GITHUB, folder: Path | None = None) -> Code:
    """Return the code from a folder, or else from a source of `--from`."""
    if folder:
        return sources.verified(sources.from_folder(folder), str(folder))
    if source == "pypi":
        return sources.pypi()
    try:
        return sources.github(url)
    except CiError as error:
        if source == "github":
            raise
        say(f"Not from GitHub: {error}")
        try:
            return sources.pypi()
        except CiError as second:
            said = f"neither GitHub nor the package index has it: {error}; {second}"
            raise CiError(said) from second


def there(into: Path) -> Origin | None:
    """Return the origin of the code in the folder; None if there is none, or not a pinned one."""
    try:
        said = json.loads((into / SOURCE).read_text(encoding="utf-8"))
        origin = sources.verified(sources.from_folder(into), str(into)).origin
    except (OSError, ValueError, CiError):
        return None
    return origin if said == _told(origin) else None


def put(code: Code, into: Path) -> None:
    """Replace what is in `into` by the code, whole or not at all."""
    if into.exists() and not (into / SOURCE).is_file():
        try:
            into.rmdir()
        except OSError as error:
            said = f"{into} contains something else: name another folder with --into"
            raise CiError(said) from error
    part = tempfile.TemporaryDirectory(prefix=f".{into.name}.", suffix=".part", dir=into.parent)
    with part as work:
        new = Path(work, "new")
        for name, content in code.files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (new / SOURCE).write_text(json.dumps(_told(code.origin), indent=2) + "\n")
        if into.is_dir():
            into.rename(Path(work, "old"))
        new.rename(into)


def _told(origin: Origin) -> dict[str, object]:
    return {**dataclasses.asdict(origin), "families": list(origin.families)}
