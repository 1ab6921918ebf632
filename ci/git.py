"""The git command line; nothing else starts it."""

from __future__ import annotations

import shutil
import subprocess

from ci.errors import CiError
from ci.paths import ROOT


def call(*arguments: str) -> str:
    """Run one git command in the repository and return what it prints."""
    done = _run(*arguments)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise CiError(f"git {arguments[0]}: {said[-1]}")
    return done.stdout.strip()


def commit(revision: str) -> str | None:
    """Return the commit that a revision names; None if this clone has none."""
    name = f"{revision}^{{commit}}"
    done = _run("rev-parse", "--verify", "--quiet", "--end-of-options", name)
    return done.stdout.strip() or None


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    found = shutil.which("git")
    if found is None:
        raise CiError("there is no git command: install the package git")
    return subprocess.run(
        [found, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
