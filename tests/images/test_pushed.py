"""Images in a real registry, behind a proxy that breaks connections; needs a Docker engine."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import tarfile
import threading
import uuid
from typing import TYPE_CHECKING

import pytest

from ci import build, docker, platforms, specs, tags
from ci.errors import CiError
from ci.image import make
from ci.layers.image import on_base, read
from tests import registry as local
from tests.engine import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclasses.dataclass
class Front:
    """A proxy for a registry: it breaks the next `breaks` connections after `after` bytes."""

    port: int
    breaks: int = 0
    after: int = 0
    broken: int = 0


@pytest.fixture(scope="module", autouse=True)
def _engine(engine: None) -> None:
    """All of this needs one."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with local.running(tmp_path_factory.mktemp("registry")) as address:
        yield int(address.rpartition(":")[2])


@pytest.fixture
def front(registry: int) -> Iterator[Front]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        front = Front(listener.getsockname()[1])
        threading.Thread(target=serve, args=(listener, front, registry), daemon=True).start()
        yield front
        # close() alone leaves a blocked accept() waiting
        listener.shutdown(socket.SHUT_RDWR)


def serve(listener: socket.socket, front: Front, registry: int) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        limit = None
        if front.broken < front.breaks:
            front.broken += 1
            limit = front.after
        server = socket.create_connection(("127.0.0.1", registry))
        for source, target, most in ((client, server, None), (server, client, limit)):
            threading.Thread(target=copy, args=(source, target, most), daemon=True).start()


def copy(source: socket.socket, target: socket.socket, limit: int | None) -> None:
    """Copy until the end, or until `limit` bytes; then both ends are closed for good."""
    left = limit
    with contextlib.suppress(OSError):
        while left is None or left > 0:
            data = source.recv(65536 if left is None else min(left, 65536))
            if not data:
                break
            target.sendall(data)
            left = None if left is None else left - len(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


@pytest.fixture
def image(registry: int, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Push an image of one MB of noise; return its repository's path and its digest."""
    (tmp_path / "noise").write_bytes(os.urandom(1_000_000))
    with tarfile.open(tmp_path / "root.tar", "w") as archive:
        archive.add(tmp_path / "noise", "noise")
    path = f"flows-test/{uuid.uuid4().hex[:12]}"
    name = f"127.0.0.1:{registry}/{path}:first"
    docker.call("import", str(tmp_path / "root.tar"), name)
    docker.call("push", "--quiet", name)
    digest = docker.digest(name)
    docker.call("image", "rm", name)
    yield path, digest
    for left in docker.call("image", "ls", "--quiet", "--filter", f"reference=*/{path}").split():
        docker.call("image", "rm", "--force", left)


def test_what_is_pushed_is_not_kept_and_held_to_a_base_that_only_the_registry_has(
    registry: int,
) -> None:
    there = f"127.0.0.1:{registry}/owner"
    options = dataclasses.replace(OPTIONS, registry=there, push=True)
    made = make(specs.load("gateway"), platforms.get("cpu"), options)
    assert docker.inspect(made.base.reference) is None
    assert docker.inspect(made.names[0]) is None
    docker.call("pull", "--quiet", made.names[0])
    try:
        image = on_base(read(made.names[0]))
    finally:
        remove(made.names[0])
    assert 0 < image.shared < len(image.layers)


def remove(reference: str) -> None:
    docker.call("image", "rm", reference)


def test_a_build_whose_pull_breaks_in_the_middle_of_a_layer_goes_on(
    front: Front, image: tuple[str, str], tmp_path: Path
) -> None:
    front.breaks, front.after = 5, 300_000
    out = built_on(f"127.0.0.1:{front.port}/{image[0]}@{image[1]}", tmp_path)
    assert front.broken == front.breaks
    assert (out / "noise").read_bytes() == (tmp_path / "noise").read_bytes()


def test_a_registry_that_never_answers_ends_a_build_in_one_line(
    front: Front, image: tuple[str, str], tmp_path: Path
) -> None:
    front.breaks = 1000
    with pytest.raises(CiError) as raised:
        built_on(f"127.0.0.1:{front.port}/{image[0]}@{image[1]}", tmp_path)
    assert "\n" not in str(raised.value)
    assert f"127.0.0.1:{front.port}/{image[0]}" in str(raised.value)


def built_on(reference: str, folder: Path) -> Path:
    """Build something on an image; return the folder with what came of it."""
    context, out = folder / "context", folder / "out"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {reference}\nCOPY Dockerfile /\n")
    build.build([f"--output=type=local,dest={out}", str(context)])
    return out


def test_a_tested_image_gets_its_tags_and_keeps_its_digest(
    registry: int, image: tuple[str, str]
) -> None:
    repository = f"127.0.0.1:{registry}/{image[0]}"
    names = [f"{repository}:cpu", f"{repository}:1.2.3-cpu"]
    tags.apply(f"{repository}@{image[1]}", names)
    assert {docker.digest(name) for name in names} == {image[1]}


def test_tags_are_given_only_within_the_images_own_repository(
    registry: int, image: tuple[str, str]
) -> None:
    repository = f"127.0.0.1:{registry}/{image[0]}"
    with pytest.raises(CiError, match="in another repository"):
        tags.apply(f"{repository}@{image[1]}", [f"{repository}-other:cpu"])


def test_an_image_named_by_a_tag_gets_no_tags(registry: int, image: tuple[str, str]) -> None:
    repository = f"127.0.0.1:{registry}/{image[0]}"
    with pytest.raises(CiError, match="names no digest"):
        tags.apply(f"{repository}:first", [f"{repository}:cpu"])
