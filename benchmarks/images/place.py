"""Where images are measured: an engine, a registry and a platform image, all our own."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.contestants import Server, free_port, running
from ci import build, docker, platforms, uv
from ci.__main__ import main
from ci.engine.daemon import Engine
from ci.errors import CiError
from tests import registry, standin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.platforms import Platform
    from ci.specs import Spec

PLATFORM = "cpu"
_TORCH_PAGE = "https://download.pytorch.org/whl/cpu/torch/"
# Debian's own image removes what apt downloaded, the stand-in for it does not.
_PLATFORM_IMAGE = """
FROM debian:bookworm-slim
ARG TORCH LINKS
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_FIND_LINKS=${LINKS} UV_FIND_LINKS=${LINKS}
RUN echo 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };' \\
    > /etc/apt/apt.conf.d/clean \\
 && echo 'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";' >> /etc/apt/apt.conf.d/clean \\
 && apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-pip python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,source=lock.txt,target=/tmp/lock.txt \
 test -z "${TORCH}" || pip install --no-cache-dir --constraint /tmp/lock.txt torch==${TORCH}
"""
_PATCH = "FROM {image}\nRUN echo patched > /etc/patched\n"


class Place:
    """The engine and the registry, and the platform image that everyone builds on.

    That has Python and pip and, if the bento wants it, torch, as PyTorch's own image has.
    """

    def __init__(self, folder: Path, spec: Spec) -> None:
        self._lock = spec.lock_for(PLATFORM)
        self._torch = spec.requirements(PLATFORM).get("torch", "")
        self.engine = Engine(folder / "engine")
        self.registry = folder / "registry"
        self.address = ""  # of the registry, while it runs
        self._kept = folder / "registry-kept"
        self.platform_bytes = 0

    @property
    def repository(self) -> str:
        """Return where the platform image is."""
        return f"{self.address}/platform"

    @property
    def platform(self) -> Platform:
        """Return the platform as it is now: pinned by the digest of its image."""
        return platforms.get(PLATFORM)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run all of it, with the platform image in the registry."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.engine.stop)
            self.engine.start()
            os.environ.update(self.engine.variables())
            self.address = stack.enter_context(registry.running(self.registry))
            standin.debian(self.engine.home)
            self._make_platform(stack.enter_context(_links()))
            os.environ.pop("UV_FIND_LINKS", None)  # the platform image says where wheels are
            yield

    def empty(self) -> None:
        """Empty the engine, and take all but the platform image out of the registry."""
        shutil.rmtree(self.registry / "data")
        shutil.copytree(self._kept, self.registry / "data")
        self.point(patched=False)
        self.empty_engine()

    def empty_engine(self) -> None:
        """Empty the engine: no image, no build cache."""
        self.engine.stop()
        shutil.rmtree(self.engine.home / "data")
        self.engine.start()

    def point(self, *, patched: bool) -> None:
        """Move the platform's tag to the image before or after its patch, and pin it again."""
        tag = "patched" if patched else "first"
        name = f"{self.repository}:{self.platform.tag}"
        docker.call("buildx", "imagetools", "create", "--tag", name, f"{self.repository}:{tag}")
        if main(["base", "pin", PLATFORM]):
            raise CiError("the platform could not be pinned; why stands above")

    def _make_platform(self, links: str) -> None:
        """Make the platform image and its patched successor; name it in platforms.toml."""
        values = {"image": self.repository, "tag": "stand-in", "devel_tag": "stand-in"}
        values["torch_from"] = "base" if self._torch else "wheels"
        platforms.change(PLATFORM, values)
        with tempfile.TemporaryDirectory() as folder:
            shutil.copyfile(self._lock, Path(folder, "lock.txt"))
            arguments = docker.variables({"TORCH": self._torch, "LINKS": links}, "--build-arg")
            self._push("first", _PLATFORM_IMAGE, folder, *arguments)
            self.platform_bytes = registry.size(self.registry)
            self._push("patched", _PATCH.format(image=f"{self.repository}:first"), folder)
        shutil.copytree(self.registry / "data", self._kept)

    def _push(self, tag: str, dockerfile: str, folder: str, *arguments: str) -> None:
        Path(folder, "Dockerfile").write_text(dockerfile, encoding="utf-8")
        name = f'--output=type=registry,"name={self.repository}:{tag}"'
        build.build([name, "--network=host", "--provenance=false", *arguments, folder])


@contextlib.contextmanager
def _links() -> Iterator[str]:
    """Yield the page where builds find torch's CPU build: uv's folder of wheels, or PyTorch's."""
    folder = uv.wheels()
    if folder is None or not any(folder.glob("torch-*+cpu-*.whl")):
        yield _TORCH_PAGE
        return
    port = free_port()
    command = [sys.executable, "-m", "http.server", f"--directory={folder}", "--bind=127.0.0.1"]
    server = Server("wheels", [*command, str(port)], port, "/")
    with running(server):
        yield f"{server.url}/"
