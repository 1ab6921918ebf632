"""The gates on real images: what BentoML builds by itself on a base with torch, and ours."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import shutil
import zipfile
from typing import TYPE_CHECKING

import pytest
from uv import find_uv_bin

from benchmarks.images.ways import To, stock
from ci import docker, platforms, specs
from ci.layers.gates import GATES, Look, judge
from ci.layers.image import on_base, read
from ci.paths import ROOT
from tests import standin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ci.image import Image
    from ci.platforms import Platform

TORCH = "9.9.9"
NAME = "bentovox-test-gates"
BASE = """
FROM debian:bookworm-slim
RUN echo 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };' \\
    > /etc/apt/apt.conf.d/docker-clean \\
 && apt-get update && apt-get install --yes --no-install-recommends python3 \\
 && rm -rf /var/lib/apt/lists/*
COPY uv /usr/local/bin/uv
COPY wheels /wheels
ENV UV_FIND_LINKS=/wheels
RUN uv pip install --system --break-system-packages --no-deps --no-index --no-cache torch
"""


def wheel(folder: Path) -> None:
    """Write a torch that holds two megabytes and nothing to import."""
    files = {
        "torch/__init__.py": f"__version__ = {TORCH!r}\n".encode(),
        "torch/libtorch.so": hashlib.shake_256(b"torch").digest(2_000_000),  # each time the same
        f"torch-{TORCH}.dist-info/METADATA": (
            f"Metadata-Version: 2.1\nName: torch\nVersion: {TORCH}\n".encode()
        ),
        f"torch-{TORCH}.dist-info/WHEEL": (
            b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    record = f"torch-{TORCH}.dist-info/RECORD"
    lines = [f"{name},sha256={hashed(data)},{len(data)}" for name, data in files.items()]
    with zipfile.ZipFile(folder / f"torch-{TORCH}-py3-none-any.whl", "w") as made:
        for name, data in files.items():
            made.writestr(name, data)
        made.writestr(record, "\n".join([*lines, f"{record},,", ""]))


def hashed(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


@pytest.fixture(scope="module")
def with_torch(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:  # noqa: ARG001
    """Give a platform whose image holds a torch, small and useless."""
    platform = dataclasses.replace(platforms.get("cpu"), image=NAME, tag="torch", digest="")
    folder = tmp_path_factory.mktemp("torch")
    (folder / "wheels").mkdir()
    wheel(folder / "wheels")
    shutil.copy2(find_uv_bin(), folder / "uv")
    (folder / "Dockerfile").write_text(BASE)
    standin.build(platform.reference, folder)
    yield platform
    docker.ask("image", "rm", platform.reference)


def faults(name: str) -> dict[str, str]:
    look = Look(on_base(read(name)))
    verdicts = judge(look)
    assert len(verdicts) == len(GATES)
    return {gate: " ".join(found) for gate, found in verdicts.items() if found}


@pytest.mark.parametrize(
    "name", ["gateway", "conversation", "speech", "transcription", "chat", "ray"]
)
def test_our_image_passes_every_gate(built: Callable[[str], Image], name: str) -> None:
    assert len(GATES) == 9, "a new gate: the plain image may fail it, too"
    assert faults(built(name).names[0]) == {}


def test_plain_bento_on_a_base_with_torch_fails_by_name(
    with_torch: Platform, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "services", tree / "services")
    shutil.copy2(ROOT / "LICENSE", tree / "LICENSE")
    gateway = specs.load("gateway")
    lock = tree / "lock.cpu.txt"
    lock.write_text(f"{gateway.lock_for('cpu').read_text()}torch=={TORCH}\n")
    python = {**gateway.data["python"], "requirements_txt": str(lock)}
    spec = dataclasses.replace(gateway, data={**gateway.data, "python": python})
    made = stock(spec, tmp_path / "stock", with_torch, To(), lock=lock.name, root=tree)
    try:
        found = faults(made.name)
    finally:
        docker.ask("image", "rm", made.name)
    assert found["one torch, the base's, as locked"].count(f"{TORCH} in ") == 2
    assert "torch/libtorch.so" in found["nothing over 1 MiB twice"]
    assert "no HEALTHCHECK" in found["health check"]
    assert "usr/bin/g++" in found["no compiler"]
    assert "not root" not in found
    assert "no secret in the environment" not in found
