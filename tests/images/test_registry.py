import dataclasses
import hashlib
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci.__main__ import main
from ci.errors import CiError
from ci.registry import pruning, server
from ci.registry.server import Registry

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture(scope="module", autouse=True)
def _engine(engine: None) -> None:
    """Its folder of programs has docker-registry."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    one = Registry(tmp_path / "registry", free_port())
    yield one
    server.stop(one)


def call(registry: Registry, method: str, path: str, data: bytes = b"", kind: str = "") -> str:
    url = path if path.startswith("http") else f"http://{registry.address}{path}"
    request = urllib.request.Request(url, data or None, method=method)  # noqa: S310  loopback
    request.add_header("Content-Type", kind or "application/octet-stream")
    request.add_header("Accept", f"{MANIFEST}, {INDEX}")
    with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310  loopback
        return str(reply.headers.get("Location") or reply.read().decode())


def push(registry: Registry, tag: str, *layers: bytes) -> dict[str, Any]:
    """Push an image of these layers, as a client does; return how an index names it."""
    entries = []
    for data in (b"{}", *layers):
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        where = call(registry, "POST", "/v2/some/image/blobs/uploads/")
        call(registry, "PUT", f"{where}&digest={digest}", data)
        kind = "application/vnd.oci.image.layer.v1.tar"
        entries.append({"mediaType": kind, "digest": digest, "size": len(data)})
    config = {**entries[0], "mediaType": "application/vnd.oci.image.config.v1+json"}
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": entries[1:]}
    data = json.dumps(manifest).encode()
    call(registry, "PUT", f"/v2/some/image/manifests/{tag}", data, MANIFEST)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return {"mediaType": MANIFEST, "digest": digest, "size": len(data)}


def test_starting_twice_is_starting_once(registry: Registry) -> None:
    assert [server.start(registry), server.start(registry)] == [True, False]
    assert server.answers(registry)


def test_after_stop_it_is_gone_and_stopping_again_does_nothing(registry: Registry) -> None:
    server.start(registry)
    assert [server.stop(registry), server.stop(registry)] == [True, False]
    assert not server.answers(registry)


def test_the_same_folder_cannot_run_on_two_ports(registry: Registry) -> None:
    server.start(registry)
    with pytest.raises(CiError, match=f"runs on port {registry.port}: stop it first"):
        server.start(Registry(registry.folder, free_port()))


def test_size_grows_by_what_a_push_sends_and_layers_are_sent_once(registry: Registry) -> None:
    server.start(registry)
    push(registry, "one", b"a" * 10_000, b"b" * 100)
    before = server.size(registry)
    push(registry, "two", b"a" * 10_000, b"c" * 300)
    assert 300 < server.size(registry) - before < 1500


def test_prune_removes_what_no_tag_names_and_keeps_the_rest(registry: Registry) -> None:
    server.start(registry)
    push(registry, "moving", b"old" * 10_000)
    push(registry, "moving", b"new" * 10_000)
    assert 30_000 < pruning.prune(registry) < 32_000
    assert server.running(registry)
    assert "layers" in call(registry, "GET", "/v2/some/image/manifests/moving")


def test_prune_keeps_the_parts_of_a_tagged_index_and_not_those_of_an_untagged(
    registry: Registry,
) -> None:
    server.start(registry)
    part = push(registry, "part", b"part" * 10_000)
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [part]}
    call(registry, "PUT", "/v2/some/image/manifests/whole", json.dumps(index).encode(), INDEX)
    push(registry, "part", b"new" * 10)
    assert pruning.prune(registry) == 0
    assert "layers" in call(registry, "GET", f"/v2/some/image/manifests/{part['digest']}")
    push(registry, "whole", b"other")
    assert pruning.prune(registry) > 40_000


def test_pruning_leaves_a_stopped_registry_stopped(registry: Registry) -> None:
    server.start(registry)
    push(registry, "one", b"x")
    server.stop(registry)
    pruning.prune(registry)
    assert not server.running(registry)


def test_pruning_an_empty_one_frees_nothing(registry: Registry) -> None:
    server.start(registry)
    assert pruning.prune(registry) == 0


def test_a_mirror_fetches_what_it_lacks_and_keeps_it(registry: Registry, tmp_path: Path) -> None:
    server.start(registry)
    push(registry, "one", b"a" * 10_000)
    mirror = Registry(tmp_path / "mirror", free_port(), f"http://{registry.address}")
    server.start(mirror)
    try:
        fetched = json.loads(call(mirror, "GET", "/v2/some/image/manifests/one"))
        digest = fetched["layers"][0]["digest"]
        assert call(mirror, "GET", f"/v2/some/image/blobs/{digest}") == "a" * 10_000
    finally:
        server.stop(mirror)


def test_a_mirror_is_not_pruned(registry: Registry) -> None:
    with pytest.raises(CiError, match="by itself, after a week"):
        pruning.prune(dataclasses.replace(registry, remote="http://elsewhere"))


def test_a_port_that_is_taken_is_one_line(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", registry.port))
        other.listen()
        options = [f"--folder={registry.folder}", f"--port={registry.port}"]
        assert main(["registry", "start", *options]) == 1
    assert f"port {registry.port} is taken" in capsys.readouterr().err


def test_a_registry_that_is_down_is_one_line(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"--folder={registry.folder}", f"--port={registry.port}"]
    assert main(["registry", "status", *options]) == 1
    said = capsys.readouterr().err
    assert "no registry answers at" in said
    assert said.count("\n") == 1


def test_a_process_that_has_the_id_now_is_not_ours(registry: Registry) -> None:
    registry.folder.mkdir()
    registry.process_file.write_text("1")
    assert not server.running(registry)
    assert server.stop(registry) is False


def test_it_listens_on_the_loopback_address_and_lets_manifests_be_deleted(
    registry: Registry,
) -> None:
    said = server.configured(registry)
    assert said["http"]["addr"] == f"127.0.0.1:{registry.port}"
    assert said["storage"]["delete"] == {"enabled": True}
    assert "proxy" not in said


def test_the_port_it_was_started_with_is_remembered(registry: Registry) -> None:
    assert server.port_of(registry.folder) is None
    registry.folder.mkdir()
    registry.config.write_text(yaml.safe_dump(server.configured(registry)))
    assert server.port_of(registry.folder) == registry.port
