"""The git command line; nothing else starts it."""

from __future__ import annotations

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


def commit(revision: str) -> str:
    """Return the commit that a revision names."""
    done = _run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if done.returncode:
        raise CiError(f"{revision!r} is no revision of this repository; `git fetch` may bring it")
    return done.stdout.strip()


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return ran("git", *arguments, cwd=ROOT)
    except FileNotFoundError as error:
        raise CiError("there is no git command: install the package git") from error
