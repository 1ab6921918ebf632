"""Removes from a registry what no tag names any more.

The registry's own `garbage-collect --delete-untagged` also removes the parts of a tagged index, and
so breaks every image that has one (github.com/distribution/distribution/issues/3178). So the
manifests without a name are found here, deleted through its API, and only then are blobs collected.
"""

from __future__ import annotations

import json
import subprocess
import urllib.request
from typing import TYPE_CHECKING

from ci import docker
from ci.errors import CiError
from ci.registry import server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci.registry.server import Registry


def prune(registry: Registry) -> int:
    """Remove what no tag names; return the bytes that this freed.

    Raises:
        CiError: it cannot be done.
    """
    if registry.remote:
        raise CiError(
            f"a mirror drops what it keeps by itself, after a week: to have the room now, stop it "
            f"and remove {registry.folder}"
        )
    before = server.size(registry)
    if not before:
        return 0
    started = server.start(registry)
    try:
        for repository, digest in unnamed(registry.stored):
            _delete(registry, repository, digest)
        server.stop(registry)
        _collect(registry)
    finally:
        if not started:
            server.start(registry)
    return before - server.size(registry)


def unnamed(stored: Path) -> Iterator[tuple[str, str]]:
    """Yield each repository with the digest of a manifest that no tag leads to."""
    repositories = stored / "repositories"
    for folder in sorted(repositories.rglob("_manifests")):
        named: set[str] = set()
        for link in folder.glob("tags/*/current/link"):
            _follow(stored, link.read_text(encoding="ascii").strip(), named)
        for link in sorted(folder.glob("revisions/sha256/*/link")):
            digest = link.read_text(encoding="ascii").strip()
            if digest not in named:
                yield folder.parent.relative_to(repositories).as_posix(), digest


def _follow(stored: Path, digest: str, named: set[str]) -> None:
    """Add a manifest, and what it is an index of, to those that a tag leads to."""
    named.add(digest)
    kind, _, hexadecimal = digest.partition(":")
    path = stored / "blobs" / kind / hexadecimal[:2] / hexadecimal / "data"
    if path.is_file():
        for part in json.loads(path.read_bytes()).get("manifests", []):
            _follow(stored, part["digest"], named)


def _delete(registry: Registry, repository: str, digest: str) -> None:
    url = f"http://{registry.address}/v2/{repository}/manifests/{digest}"
    with urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=30):
        pass


def _collect(registry: Registry) -> None:
    binary = server.found()
    if binary is None:
        command = ["garbage-collect", "/registry/config.yml"]
        docker.call("run", "--rm", *server.in_container(registry), *command)
        return
    done = subprocess.run(
        [binary, "garbage-collect", str(registry.config)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no word"]
        raise CiError(f"the registry could not be pruned: {said[-1]}")
