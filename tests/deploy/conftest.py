"""Fixtures for the deployment tests: the compose command, an engine, the images, stand-ins."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests import standin
from tests.deploy.deployment import OURS, Deployment, Stack, commands
from tests.parrot import parrot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci.image import Image

WATCHED = """
services:
  chat:
    healthcheck: {interval: 1s, retries: 1}
"""
_TIMEOUT_S = 900  # the first one that starts the stack builds its images


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))


def _said(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


@pytest.fixture(scope="session")
def compose_command(engine: None) -> None:  # noqa: ARG001  its folder of programs has it
    if _said("docker", "compose", "version") is None:
        pytest.skip("`docker compose` is not installed")


@pytest.fixture(scope="session")
def images(built: Callable[[str], Image]) -> None:
    for name in OURS:
        built(name)


@pytest.fixture(scope="session")
def standins(engine: None) -> Iterator[dict[str, str]]:  # noqa: ARG001
    """Real nginx, Prometheus and registry from Debian, as the variables that name their images."""
    folder = Path(__file__).parent / "standins"
    names = {}
    variables = {
        "nginx": "NGINX_IMAGE",
        "prometheus": "PROMETHEUS_IMAGE",
        "registry": "REGISTRY_CACHE_IMAGE",
    }
    for target, variable in variables.items():
        tag = f"bentovox-test/{target}:debian"
        standin.build(tag, folder, f"--target={target}")
        names[variable] = tag
    yield names
    subprocess.run(["docker", "image", "rm", *names.values()], check=False, capture_output=True)


@pytest.fixture
def files(compose_command: None, tmp_path: Path) -> Deployment:  # noqa: ARG001
    """A deployment that is looked at and not started."""
    deployment = Deployment(tmp_path)
    deployment.shell("cp .env.example .env")
    return deployment


@pytest.fixture(scope="session")
def stack(
    images: None,  # noqa: ARG001
    standins: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    """Give the whole stack on the CPU, started and given a key by the README's own commands."""
    files = {"COMPOSE_FILE": "compose.yaml:watched.yaml"}
    deployment = Deployment(tmp_path_factory.mktemp("compose"), PORT="0", **files, **standins)
    (deployment.folder / "watched.yaml").write_text(WATCHED, encoding="utf-8")
    try:
        settings = (
            "BENTOVOX_SPEECH__ENGINE=espeak\n"  # whose voice that model understands
            "BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL=/models/my-whisper\n"
        )
        (deployment.folder / "settings.env").write_text(settings, encoding="utf-8")
        start, curl, hello = commands("Without a GPU").partition("curl ")
        deployment.shell(start)
        without_a_model = httpx.get(f"{deployment.url()}/readyz", timeout=30).json()
        parrot(deployment.folder / "my-whisper")
        deployment.shell(commands("Without a hub"))
        hello = deployment.shell(curl + hello.replace("http://localhost:3000", deployment.url()))
        said = deployment.shell(commands("Keys"))
        key, line = re.findall(r": (\S+)$", said, flags=re.MULTILINE)
        deployment.secret("api_keys", f"# for the tests\n{line}\n")
        deployment.shell("docker compose restart gateway && docker compose up --detach --wait")
        yield Stack(deployment, key, hello, without_a_model)
    finally:
        deployment.compose("down --volumes --timeout 5", COMPOSE_PROFILES="monitoring")
