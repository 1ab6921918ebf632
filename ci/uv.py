"""The uv that builds and goes into the bases: the one locked for this environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import CiError

if TYPE_CHECKING:
    from ci.platforms import Platform


def executable() -> str:
    """Return the path of uv.

    Raises:
        CiError: there is none.
    """
    try:
        from uv import find_uv_bin  # noqa: PLC0415  only the environment `dev` has it
    except ImportError:
        found = shutil.which("uv")
    else:
        found = str(find_uv_bin())
    if found is None:
        raise CiError("there is no uv: run this through nox, or `python -m pip install uv`")
    return found


def version() -> str:
    """Return its version."""
    return subprocess.check_output([executable(), "--version"], text=True).split()[1]


def wheels() -> Path | None:
    """Return the folder of wheels that UV_FIND_LINKS names; None if it names none."""
    for link in os.environ.get("UV_FIND_LINKS", "").split(","):
        if link and "://" not in link and Path(link).is_dir():
            return Path(link)
    return None


def wheels_context(platform: Platform) -> list[str]:
    """Return buildx's option that gives a build the folder of wheels.

    That has torch's CPU build, which must not decide what a GPU gets.
    """
    folder = wheels()
    return [f"--build-context=wheels={folder}"] if folder and not platform.cuda else []
