"""The git command line; nothing else starts it."""

from __future__ import annotations

import shutil
import subprocess

from ci.errors import CiError
from ci.paths import ROOT


def call(*arguments: str) -> str:
    """Run one git command in the repository and return what it prints.

    Raises:
        CiError: it failed; the message is its last line.
    """
    done = _run(*arguments)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise CiError(f"git {arguments[0]}: {said[-1]}")
    return done.stdout.strip()


def ask(*arguments: str) -> str | None:
    """Run one git command and return what it prints; None if it fails."""
    done = _run(*arguments)
    return None if done.returncode else done.stdout.strip()


def commit(revision: str) -> str:
    """Return the commit that a revision names.

    Raises:
        CiError: this clone has none.
    """
    found = ask("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if not found:
        raise CiError(f"{revision!r} is no revision of this repository; `git fetch` may bring it")
    return found


def changed(base: str, head: str) -> tuple[str, ...]:
    """Return the paths that changed in `head` since it left `base`; of a rename, both.

    Raises:
        CiError: a revision is unknown, or they have nothing in common here.
    """
    span = f"{commit(base)}...{commit(head)}"
    found = call("diff", "--name-only", "--no-renames", "-z", span, "--")
    return tuple(path for path in found.split("\0") if path)


def content(revision: str, path: str) -> str:
    """Return a file's text at a revision; empty if it was not there."""
    return ask("show", f"{revision}:{path}") or ""


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
