"""The docker command line; nothing else starts it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

from ci.errors import CiError
from ci.terminal import last_line, ran, say

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_FULL = os.strerror(errno.ENOSPC).lower()
_REFUSED = os.strerror(errno.ECONNREFUSED).lower()


def environment() -> dict[str, str]:
    """Return the environment for docker: the caller's, without hints and default attestations."""
    return {**os.environ, "DOCKER_CLI_HINTS": "false", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}


def binary() -> str:
    """Return the path of the docker command."""
    found = shutil.which("docker")
    if found is None:
        raise CiError(
            "there is no docker command: install Docker Engine with buildx, or on Debian as root "
            "start a throw-away one with `python -m ci engine start`"
        )
    return found


def ready() -> None:
    """Find the engine; verbs call this before they begin."""
    if _run("version", "--format", "{{.Server.Version}}").returncode:
        host = os.environ.get("DOCKER_HOST", "the default socket")
        raise CiError(
            f"no docker engine answers at {host}: start it, or on Debian as root a throw-away one "
            "with `python -m ci engine start`"
        )
    if _run("buildx", "version").returncode:
        raise CiError(f"{binary()} has no buildx: install the package docker-buildx")


def call(*arguments: str, stdin: str = "") -> str:
    """Run one docker command and return what it prints."""
    done = _run(*arguments, stdin=stdin)
    if done.returncode:
        raise CiError(explained(done.stderr or done.stdout, f"docker {' '.join(arguments[:2])}"))
    return done.stdout.strip()


def ask(*arguments: str) -> str | None:
    """Run one docker command and return what it prints, None where it fails."""
    done = _run(*arguments)
    return None if done.returncode else done.stdout.strip()


def inspect(image: str) -> dict[str, Any] | None:
    """Return what the engine knows of a local image; None if it has none of that name."""
    said = ask("image", "inspect", image)
    return json.loads(said)[0] if said else None


def digest(reference: str) -> str:
    """Return the digest that a registry has for a reference."""
    say(f"Reading the digest of {reference}")
    # A single field, such as {{.Manifest.Digest}}, prints everything with buildx 0.29.
    said = call("buildx", "imagetools", "inspect", "--format", "{{json .Manifest}}", reference)
    found = str(json.loads(said).get("digest"))
    if not _DIGEST.fullmatch(found):
        raise CiError(f"the registry gave no digest for {reference}")
    return found


def diff_ids(image: str) -> list[str]:
    """Return the diff ids of an image's layers, here or in its registry; none if in neither."""
    known = inspect(image)
    if known is None:
        said = ask("buildx", "imagetools", "inspect", "--format={{json .Image}}", image)
        known = json.loads(said) if said else {}
        known = known.get("linux/amd64", known)  # of an image for several platforms
    root: dict[str, Any] = known.get("RootFS") or known.get("rootfs") or {}
    return list(root.get("Layers") or root.get("diff_ids") or ())


def explained(said: str, what: str) -> str:
    """Return docker's last line, with the remedy where the fault is a known one."""
    if _FULL in said.lower():
        return (
            f"{what}: the engine's disk is full; `docker system df` shows what is on it, "
            "`docker buildx prune` and `docker image prune` free it"
        )
    last = last_line(re.sub(r"^Run 'docker .*", "", said, flags=re.MULTILINE))  # is no remedy
    if _REFUSED in said.lower():
        return f"{what}: a registry does not answer: {last}"
    return f"{what}: {last}"


def _run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return ran(binary(), *arguments, env=environment(), input=stdin)


def variables(values: Mapping[str, str], option: str) -> list[str]:
    """Return `--option NAME=VALUE` for each value, in the order of their names."""
    return [part for name in sorted(values) for part in (option, f"{name}={values[name]}")]
