"""Three ways from a service to an image, each as its users go it.

Each does all that is done after a change, on a platform's image as it is now.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import yaml

from ci import base, bento, build, docker, image, specs
from ci.base import Base
from ci.build import Options
from ci.layers.image import BASE_NAME
from ci.paths import ROOT
from ci.platforms import Platform
from ci.specs import Spec

_CONTEXT = """
import shutil, sys
import bentoml
from bentoml._internal.container import construct_containerfile
with construct_containerfile(bentoml.get(sys.argv[1])) as (context, _):
    shutil.copytree(context, sys.argv[2])
"""
_DOCKERFILE = """
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


class To(NamedTuple):
    """Where an image goes: into the engine, or to a registry with a cache beside it."""

    registry: str = ""
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


class Made(NamedTuple):
    """What one way did: the image's name, the seconds before docker, and those of docker."""

    name: str
    pack_s: float
    build_s: float


def ours(bento_name: str, platform: Platform, to: To) -> Made:
    """`python -m ci image`: a shared base with a layer for each wheel group, then the rest."""
    began, zstd = time.monotonic(), ",compression=zstd"  # as the workflows write caches
    spec = specs.load(bento_name)
    below = base.find(spec.base(platform.name), platform, to.registry)
    base_s = base.ensure(below, to.options(f"base-{below.stage}", zstd))
    made = image.make(spec, platform, to.options(spec.name, zstd))
    build_s = base_s + made.build_s
    return Made(made.names[0], time.monotonic() - began - build_s, build_s)


def stock(
    spec: Spec, folder: Path, platform: Platform, to: To, *, lock: str = "", root: Path = ROOT
) -> Made:
    """`bentoml build` and `bentoml containerize`: a base image with torch, and the lock.

    The context is made by containerize's own function and built as it builds it. `root` is the tree
    that the bento is built from, `lock` a path below it (default: the bento's own).
    """
    began = time.monotonic()
    _anew(folder)
    lock = lock or str(spec.lock_for(platform.name).relative_to(ROOT))
    # The distribution is BentoML's own default; the service's image says `none`.
    image_ = {"base_image": platform.reference, "python_version": platform.python}
    python = {"requirements_txt": lock, "lock_packages": False}
    data = {**spec.data, "docker": {**image_, "distro": "debian"}, "python": python}
    bentofile, home, context = (folder / name for name in ("bentofile.yaml", "bentoml", "context"))
    bentofile.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    bento.run_bentoml(bentofile, spec, root, home)
    command = [sys.executable, "-c", _CONTEXT, f"{spec.data['name']}:{bento.DRAFT}", context]
    environ = {**os.environ, "BENTOML_HOME": str(home)}
    subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=True)
    dockerfile = context / "env" / "docker" / "Dockerfile"
    return _plain(began, spec, platform, to, dockerfile=dockerfile, context=context)


def one_dockerfile(spec: Spec, folder: Path, platform: Platform, to: To) -> Made:
    """One Dockerfile as tutorials have it: build tools, one `pip install`, the code."""
    began = time.monotonic()
    _anew(folder)
    dockerfile = folder.with_suffix(".Dockerfile")
    said = _DOCKERFILE.format(image=platform.reference, service=spec.data["service"])
    dockerfile.write_text(said, encoding="utf-8")
    shutil.copyfile(spec.lock_for(platform.name), folder / "requirements.txt")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "services", folder / "services", ignore=ignored)
    return _plain(began, spec, platform, to, dockerfile=dockerfile, context=folder)


def _anew(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _plain(
    began: float, spec: Spec, platform: Platform, to: To, *, dockerfile: Path, context: Path
) -> Made:
    """Build as `docker build` does by itself, with the labels that our gates read."""
    name = f"{to.registry}/plain/{spec.name}:{platform.name}".lstrip("/")
    options = to.options(f"plain-{spec.name}")
    labels = image.labels(spec, platform, Base("", platform, ""), bento.DRAFT)
    labels[BASE_NAME] = platform.reference
    labels["bentovox.platform-layers"] = str(len(docker.diff_ids(platform.reference)))
    kind = "type=registry" if to.registry else "type=image,unpack=true"
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
    return Made(name, time.monotonic() - began - build_s, build_s)
