"""The profile `registry-cache`: what was pulled once is available without its registry."""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from ci import docker
from tests.e2e.server import eventually
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.deploy.deployment import Deployment

PATH = "someone/some-image:1"


@pytest.fixture
def cache(files: Deployment, standins: dict[str, str]) -> Iterator[Deployment]:
    """Start the profile in front of a registry in its own network, by the name `upstream`."""
    settings = {
        "COMPOSE_PROFILES": "registry-cache",
        "REGISTRY_CACHE_OF": "http://upstream:5000",
        "REGISTRY_CACHE_PORT": str(free_port()),
        **standins,
    }
    files.variables.update(settings)
    try:
        files.compose("create registry-cache")
        # Before the cache, which asks it for its version before it listens.
        docker.call(
            *("run", "--detach", f"--name={upstream(files)}", "--publish=127.0.0.1::5000"),
            *(f"--network={files.name}_registry-cache", "--network-alias=upstream"),
            standins["REGISTRY_CACHE_IMAGE"],
        )
        files.compose("up --detach --wait registry-cache")
        yield files
    finally:
        docker.ask("rm", "--force", "--volumes", upstream(files))
        files.compose("down --volumes --timeout 2")


def upstream(deployment: Deployment) -> str:
    return f"{deployment.name}-upstream"


def test_what_was_pulled_once_is_there_without_its_registry(
    cache: Deployment, tmp_path: Path
) -> None:
    pushed = f"{docker.call('port', upstream(cache), '5000/tcp')}/{PATH}"
    pulled = f"127.0.0.1:{cache.variables['REGISTRY_CACHE_PORT']}/{PATH}"
    with tarfile.open(tmp_path / "root.tar", "w") as archive:
        noise = tarfile.TarInfo("noise")
        noise.size = 1_000_000
        archive.addfile(noise, io.BytesIO(os.urandom(noise.size)))
    docker.call("import", str(tmp_path / "root.tar"), pushed)
    eventually(lambda: docker.ask("push", "--quiet", pushed), 10, "the registry listens")
    digest = docker.digest(pushed)
    docker.call("image", "rm", pushed)

    assert cache.state("registry-cache")["State"]["Health"]["Status"] == "healthy"
    said = cache.compose('exec -T registry-cache sh -c "exec 2>&1; touch /x || true"')
    assert "'/x': Read-only file system" in said
    docker.call("pull", "--quiet", pulled)
    docker.call("image", "rm", pulled)
    docker.call("rm", "--force", "--volumes", upstream(cache))
    docker.call("pull", "--quiet", pulled)
    assert docker.digest(pulled) == digest
    docker.call("image", "rm", pulled)
