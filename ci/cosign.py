"""The cosign command line: the one place that starts it."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

from ci.errors import CiError
from ci.progress import say

if TYPE_CHECKING:
    import argparse

_BY_DIGEST: Final = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")


def add_options(options: argparse.ArgumentParser, key: str) -> None:
    """Add what signing and verifying take alike; `key` says which key it is."""
    options.add_argument("image", metavar="IMAGE@DIGEST", help="a pushed image, by its digest")
    options.add_argument("--key", default="", metavar="KEY", help=key)


def by_digest(image: str) -> str:
    """Return the reference.

    Raises:
        CiError: it names no digest, so that what it means may change.
    """
    if not _BY_DIGEST.fullmatch(image):
        raise CiError(
            f"{image} names no digest, and a tag may move: say NAME@sha256:..., as "
            "`docker buildx imagetools inspect NAME:TAG` prints it"
        )
    return image


def call(*arguments: str) -> None:
    """Run one cosign command; what it says goes to standard error.

    Raises:
        CiError: there is no cosign, or it failed.
    """
    found = shutil.which("cosign")
    if found is None:
        raise CiError(
            "there is no cosign command: get it from "
            "https://github.com/sigstore/cosign/releases, in a workflow with the action "
            "sigstore/cosign-installer"
        )
    say(f"cosign {arguments[0]} {arguments[-1]}")
    done = subprocess.run(
        [found, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    for line in lines if done.returncode else ():
        say(f"    | {line}")
    if done.returncode:
        raise CiError(f"cosign {arguments[0]}: {lines[-1] if lines else 'it said nothing'}")
