"""The pages' commands that run images do what the pages say; test_stock has BentoML's own."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import httpx
import pytest

from ci import docker
from tests.docs.examples import IMAGES
from tests.docs.pages import ROOT
from tests.e2e.server import MODEL, eventually
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci.image import Image
    from tests.docs.pages import Block

RUNS = [block for block in IMAGES if block.text.startswith("docker run")]


@pytest.fixture(scope="module")
def started(built: Callable[[str], Image]) -> Iterator[dict[Block, tuple[str, int]]]:
    """Start what every page says, at once; give each one's container and its port."""
    image = built("stack").names[0]
    containers: dict[Block, tuple[str, int]] = {}
    try:
        for block in RUNS:
            port = free_port()
            containers[block] = (run(on_the_cpu(block.text, image, port)), port)
        yield containers
    finally:
        for name, _ in containers.values():
            docker.call("rm", "--force", "--volumes", name)


def on_the_cpu(command: str, image: str, port: int) -> str:
    """Return a page's command for the CPU's image and a profile that it can serve: no GPU here."""
    command = command.replace("--gpus all ", "").replace("bentovox/stack:cuda13", image)
    command = command.replace("BENTOVOX_PROFILE=gpu", "BENTOVOX_PROFILE=demo")
    command = re.sub(r"--name \S+", "", command).replace("--rm", "--detach")
    return command.replace("3000:3000", f"127.0.0.1:{port}:3000")


def run(command: str) -> str:
    done = subprocess.run(
        ["sh", "-ec", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("block", RUNS, ids=str)
def test_container_of_the_page_answers(started: dict[Block, tuple[str, int]], block: Block) -> None:
    name, port = started[block]
    health = "--format={{.State.Health.Status}}"
    eventually(lambda: docker.call("inspect", health, name) == "healthy", 400, "it is healthy")
    hello = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    answer = httpx.post(url, json=hello, timeout=60).json()
    assert answer["choices"][0]["message"]["content"].startswith("Hello!")
