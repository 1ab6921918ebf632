"""The plain way: `bentoml build` and `bentoml containerize`, without `python -m ci`.

The image has one layer of packages, works, and uses the base's torch.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci import bento, docker, platforms, specs
from ci.paths import ROOT
from tests.container import BACKEND_CODE, HARDENED, Container, settings
from tests.docs.examples import IMAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci.image import Image

NAME = "bentovox-test-stock"


class Store:
    """A BentoML store with its command line; no statistics are sent."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, *words: str) -> str:
        tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        quiet = {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(self.home), "PATH": tools}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "bentoml", *words],
            cwd=ROOT,
            env={**os.environ, **quiet},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done.stdout

    def containerize(self, tag: str) -> str:
        image = f"{NAME}:{tag.partition(':')[0]}"
        self.run("containerize", tag, "--image-tag", image, "--opt", "network=host")
        return image


@pytest.fixture(scope="module")
def store(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:  # noqa: ARG001
    yield Store(tmp_path_factory.mktemp("bentoml"))
    docker.ask("image", "rm", f"{NAME}:bentovox-chat", "bentovox/gateway:plain")


@pytest.fixture(scope="module")
def gateway(built: Callable[[str], Image], store: Store) -> str:
    """Return the gateway's image, made by the page's own commands; its base is there."""
    assert built("gateway").base.moving == specs.load("gateway").data["docker"]["base_image"]
    (block,) = (block for block in IMAGES if block.text.startswith("bentoml build"))
    build, containerize = block.text.splitlines()
    store.run(*shlex.split(build)[1:])
    store.run(*shlex.split(containerize)[1:], "--opt", "network=host")
    return "bentovox/gateway:plain"


@pytest.fixture(scope="module")
def chat(built: Callable[[str], Image], store: Store) -> str:
    """Return chat's image for the CPU, made of the bento that `ci.bento` makes."""
    built("chat")
    packed, version = bento.make(specs.load("chat"), platforms.get("cpu"))
    shutil.copytree(packed, store.home / "bentos" / "bentovox-chat" / version)
    return store.containerize(f"bentovox-chat:{version}")


def test_a_plain_image_runs_read_only_without_root_and_turns_healthy(gateway: str) -> None:
    given = {"BENTOML_HOME": "/tmp/bentoml", **settings(specs.load("gateway"))}  # noqa: S108  the container's
    with Container(gateway, **given) as container:
        assert container.exec("id", "-u") == "1034"
        docker.call("exec", "--detach", container.name, "python3", "-c", BACKEND_CODE)
        container.wait("healthy")
        assert container.request("GET", "/v1/models")[0] == 200
        container.stop()


def test_a_plain_image_stands_on_its_bases_layers_and_keeps_its_health_check(gateway: str) -> None:
    known = docker.inspect(gateway)
    base = docker.inspect(specs.load("gateway").data["docker"]["base_image"])
    assert known is not None
    assert base is not None
    below = base["RootFS"]["Layers"]
    assert known["RootFS"]["Layers"][: len(below)] == below
    assert known["Config"]["Healthcheck"]["Test"] == ["CMD", "healthcheck.py"]


def python(image: str, code: str) -> str | None:
    words = ("--entrypoint=/app/.venv/bin/python", "--env=BENTOML_HOME=/tmp/bentoml", image)
    return docker.ask("run", "--rm", "--network=none", *HARDENED, *words, "-c", code)


def test_a_plain_image_with_vllm_keeps_its_bases_torch(chat: str) -> None:
    code = "import torch, vllm; print(torch.__file__, torch.__version__, vllm.__file__)"
    assert (python(chat, code) or "").split() == [
        "/usr/local/lib/python3.11/dist-packages/torch/__init__.py",
        f"{platforms.get('cpu').torch}+cpu",
        "/usr/local/lib/python3.11/dist-packages/vllm/__init__.py",
    ]
    look = "import pathlib; print(*pathlib.Path('/app/.venv').rglob('torch-*.dist-info'))"
    assert python(chat, look) == ""


def test_a_plain_image_is_what_is_locked_as_a_whole(chat: str) -> None:
    code = (
        "import runpy, sys; sys.argv = ['wheels.py', 'check', "
        "'/home/bentoml/bento/env/python/requirements.txt']; "
        "runpy.run_path('/usr/local/bin/wheels.py', run_name='__main__')"
    )
    assert python(chat, code) == ""
