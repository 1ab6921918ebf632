"""Three ways from a service to an image, each as its users go it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Protocol

import yaml

from benchmarks.images import OURS, SEED, STOCK
from ci import base, bento, build, docker, image, specs
from ci.base import Base
from ci.build import Options
from ci.layers.image import BASE_NAME
from ci.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from ci.platforms import Platform
    from ci.specs import Spec

_CONTEXT = """
import shutil, sys
import bentoml
from bentoml._internal.container import construct_containerfile
with construct_containerfile(bentoml.get(sys.argv[1])) as (context, _):
    shutil.copytree(context, sys.argv[2])
"""
_SEED_DOCKERFILE = """
FROM {image}
RUN apt-get update && apt-get install -y build-essential ffmpeg git && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
EXPOSE 3000
CMD ["bentoml", "serve", "{service}"]
"""
_ZSTD = ",compression=zstd"  # as the workflows write caches; the other ways leave it to docker


@dataclasses.dataclass(frozen=True)
class To:
    """Where an image goes: into the engine, or to a registry with a cache beside it."""

    registry: str = ""
    compression: str = ""  # of layers; docker's own choice where none is named
    reads_cache: bool = False
    writes_cache: bool = False

    def options(self, name: str, how: str = "") -> Options:
        """Return what an image's build is told; `how` are more options of its cache."""
        entry = f"type=registry,ref={build.cache(name, 'cpu', self.registry)}"
        return Options(
            self.registry,
            push=bool(self.registry),
            network="host",
            cache_from=[entry] if self.reads_cache else [],
            cache_to=[f"{entry},mode=max{how}"] if self.writes_cache else [],
        )


@dataclasses.dataclass(frozen=True)
class Made:
    """What one way did: the image's name, the seconds before docker, and those of docker."""

    name: str
    pack_s: float
    build_s: float


class Way(Protocol):
    """One way; `build` does all that is done after a change, on a platform's image as it is now."""

    name: str

    def build(self, platform: Platform, to: To) -> Made:
        """Build the image."""


class Ours:
    """`python -m ci image`: a shared base with a layer for each wheel group, then the rest."""

    name = OURS

    def __init__(self, name: str) -> None:
        self._name = name

    def build(self, platform: Platform, to: To) -> Made:
        """See `Way`."""
        began = time.monotonic()
        spec = specs.load(self._name)
        below = base.find(spec.base(platform.name), platform, to.registry)
        base_s = base.ensure(below, to.options(f"base-{below.stage}", _ZSTD))
        made = image.make(spec, platform, to.options(spec.name, _ZSTD))
        return _made(made.names[0], began, base_s + made.build_s)


class Stock:
    """`bentoml build` and `bentoml containerize`: a base image with torch, and the lock.

    The context is made by containerize's own function and built as it builds it. `lock` is a path
    below `root`, the tree that the bento is built from.
    """

    name = STOCK

    def __init__(self, spec: Spec, lock: str, folder: Path, root: Path = ROOT) -> None:
        self._spec = spec
        self._lock = lock
        self._folder = folder
        self._root = root

    def build(self, platform: Platform, to: To) -> Made:
        """See `Way`."""
        began = time.monotonic()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        # The distribution is BentoML's own default; the service's image says `none`.
        image_ = {"base_image": platform.reference, "python_version": platform.python}
        python = {"requirements_txt": self._lock, "lock_packages": False}
        data = {**self._spec.data, "docker": {**image_, "distro": "debian"}, "python": python}
        bentofile = self._folder / "bentofile.yaml"
        bentofile.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        home = self._folder / "bentoml"
        bento.run_bentoml(bentofile, self._spec, self._root, home)
        context = self._folder / "context"
        command = [sys.executable, "-c", _CONTEXT, f"{self._spec.bento}:{bento.DRAFT}", context]
        environ = {**os.environ, "BENTOML_HOME": str(home)}
        subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=True)
        dockerfile = context / "env" / "docker" / "Dockerfile"
        return _plain(began, self._spec, platform, to, dockerfile=dockerfile, context=context)


class Seed:
    """One Dockerfile as tutorials have it: build tools, one `pip install`, the code."""

    name = SEED

    def __init__(self, spec: Spec, lock: Path, folder: Path) -> None:
        self._spec = spec
        self._lock = lock
        self._folder = folder

    def build(self, platform: Platform, to: To) -> Made:
        """See `Way`."""
        began = time.monotonic()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        dockerfile = self._folder.with_suffix(".Dockerfile")
        said = _SEED_DOCKERFILE.format(image=platform.reference, service=self._spec.service)
        dockerfile.write_text(said, encoding="utf-8")
        shutil.copyfile(self._lock, self._folder / "requirements.txt")
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "services", self._folder / "services", ignore=ignored)
        return _plain(began, self._spec, platform, to, dockerfile=dockerfile, context=self._folder)


def _plain(
    began: float, spec: Spec, platform: Platform, to: To, *, dockerfile: Path, context: Path
) -> Made:
    """Build as `docker build` does by itself, with the labels that our gates read."""
    repository = f"{to.registry}/plain/{spec.name}" if to.registry else f"plain/{spec.name}"
    name = f"{repository}:{platform.name}"
    options = to.options(f"plain-{spec.name}")
    labels = image.labels(spec, platform, Base("", platform, ""), bento.DRAFT)
    labels[BASE_NAME] = platform.reference
    labels["bentovox.platform-layers"] = str(len(docker.diff_ids(platform.reference)))
    kind = "type=registry" if to.registry else "type=image,unpack=true"
    kind += f",compression={to.compression}" if to.compression else ""
    build_s = build.build(
        [
            f'--output={kind},"name={name}"',
            f"--file={dockerfile}",
            "--network=host",
            "--provenance=false",
            *(f"--cache-from={entry}" for entry in options.cache_from),
            *(f"--cache-to={entry}" for entry in options.cache_to),
            *docker.variables(labels, "--label"),
            str(context),
        ]
    )
    return _made(name, began, build_s)


def _made(name: str, began: float, build_s: float) -> Made:
    return Made(name, time.monotonic() - began - build_s, build_s)
