"""Puts verified code into its folder in one step, and tells whether it is there already."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci.cosyvoice.archives import from_folder
from ci.cosyvoice.sources import verified
from ci.errors import CiError
from ci.terminal import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.cosyvoice.pins import Origin
    from ci.cosyvoice.sources import Code

SOURCE: Final = "source.json"
"""The file that says what the code is; a folder without it is not ours."""


@contextlib.contextmanager
def alone(into: Path) -> Iterator[None]:
    """Keep other runs from writing the same folder; clean up after one that was killed."""
    into.parent.mkdir(parents=True, exist_ok=True)
    with (into.parent / f".{into.name}.lock").open("w") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Another run is writing {into}: waiting for it")
            fcntl.flock(guard, fcntl.LOCK_EX)
        for left in into.parent.glob(f".{into.name}.*.part"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def there(into: Path) -> Origin | None:
    """Return the origin of the code in the folder; None if there is none, or not a pinned one."""
    try:
        said = json.loads((into / SOURCE).read_text(encoding="utf-8"))
        origin = verified(from_folder(into), str(into)).origin
    except (OSError, ValueError, CiError):
        return None
    return origin if said == _source(origin) else None


def put(code: Code, into: Path) -> None:
    """Replace what is in `into` by the code, whole or not at all.

    Raises:
        CiError: something else is in that folder.
        OSError: it cannot be written.
    """
    if into.is_symlink() or (into.exists() and not into.is_dir()):
        raise CiError(f"{into} is no folder")
    if into.is_dir() and any(into.iterdir()) and not (into / SOURCE).is_file():
        raise CiError(f"{into} contains something else: name another folder with --into")
    part = tempfile.TemporaryDirectory(prefix=f".{into.name}.", suffix=".part", dir=into.parent)
    with part as work:
        new, old = Path(work, "new"), Path(work, "old")
        for name, content in code.files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (new / SOURCE).write_text(json.dumps(_source(code.origin), indent=2) + "\n")
        if into.is_dir():
            into.rename(old)
        try:
            new.rename(into)
        except OSError:
            if old.is_dir():
                old.rename(into)
            raise


def _source(origin: Origin) -> dict[str, object]:
    return {**dataclasses.asdict(origin), "families": list(origin.families)}
