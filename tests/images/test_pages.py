"""The pages' commands for images do what the pages say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from ci import docker
from tests.docs.examples import IMAGES
from tests.docs.pages import ROOT
from tests.e2e.server import MODEL, eventually, free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.image import Image
    from tests.docs.pages import Block

RUNS = [block for block in IMAGES if block.text.startswith("docker run")]
PLAIN = [block for block in IMAGES if block.text.startswith("bentoml build")]


@pytest.mark.parametrize("block", RUNS, ids=str)
def test_container_of_the_page_answers(built: Callable[[str], Image], block: Block) -> None:
    image = built("stack").names[0]
    port = free_port()
    # There is no GPU: the same options on the CPU's image, with a profile that it can serve.
    command = block.text.replace("--gpus all ", "").replace("bentovox/stack:cuda13", image)
    command = command.replace("BENTOVOX_PROFILE=gpu", "BENTOVOX_PROFILE=demo")
    command = re.sub(r"--name \S+", "", command).replace("--rm", "--detach")
    command = command.replace("3000:3000", f"127.0.0.1:{port}:3000")
    name = run(command).strip().splitlines()[-1]
    try:
        health = "--format={{.State.Health.Status}}"
        eventually(lambda: docker.call("inspect", health, name) == "healthy", 120, "it is healthy")
        hello = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        answer = httpx.post(url, json=hello, timeout=60).json()
        assert answer["choices"][0]["message"]["content"].startswith("Hello!")
    finally:
        docker.call("rm", "--force", "--volumes", name)


@pytest.mark.parametrize("block", PLAIN, ids=str)
def test_plain_bentoml_makes_an_image_of_the_page_s_bento(
    built: Callable[[str], Image], block: Block, tmp_path: Path
) -> None:
    built("gateway")  # so that the base is there
    command = block.text.replace("bentovox/gateway:plain", "bentovox-test/gateway:plain")
    command = re.sub(r"(bentoml containerize \S+)", r"\1 --opt network=host", command)
    run(command, BENTOML_HOME=str(tmp_path))
    assert docker.inspect("bentovox-test/gateway:plain")


def run(command: str, **more: str) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {**os.environ, "PATH": path, "BENTOML_DO_NOT_TRACK": "True", **more}
    done = subprocess.run(
        ["sh", "-ec", command], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
