"""The git command line; nothing else starts it."""

from __future__ import annotations

import shutil
import subprocess

from ci.errors import CiError
from ci.paths import ROOT
from ci.terminal import last_line, ran


def call(*arguments: str) -> str:
    """Run one git command in the repository and return what it prints."""
    done = _run(*arguments)
    if done.returncode:
        raise CiError(f"git {arguments[0]}: {last_line(done.stderr)}")
    return done.stdout.strip()


def commit(revision: str) -> str | None:
    """Return the commit that a revision names; None if this clone has none."""
    name = f"{revision}^{{commit}}"
    return _run("rev-parse", "--verify", "--quiet", "--end-of-options", name).stdout.strip() or None


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    found = shutil.which("git")
    if found is None:
        raise CiError("there is no git command: install the package git")
    return ran(found, *arguments, cwd=ROOT)
