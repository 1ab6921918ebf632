"""The pages' commands that run images do what the pages say; test_stock runs the plain ones."""

from __future__ import annotations

import re
import subprocess
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


def run(command: str) -> str:
    done = subprocess.run(
        ["sh", "-ec", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
