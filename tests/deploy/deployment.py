"""A copy of `deploy/compose` or `deploy/ray` in its own folder, used as the README says."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "deploy" / "compose"
RAY = ROOT / "deploy" / "ray"
CPU = "compose.yaml"
GPU = f"{CPU}:compose.gpu.yaml"
PROFILES = ("", "monitoring", "registry-cache", "monitoring,registry-cache")
OURS = ("gateway", "chat", "speech", "transcription", "conversation")

_NOT_COPIED = (".env", "settings.env", ".secrets")  # a developer's own


def example(source: Path = SOURCE) -> dict[str, str]:
    """Return the variables of `.env.example` as a machine without a GPU has them."""
    text = (source / ".env.example").read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Z_]+)=(.*)$", text, flags=re.MULTILINE))


def commands(heading: str, source: Path = SOURCE) -> str:
    """Return the commands under a heading of the README, up to the next heading."""
    page = (source / "README.md").read_text(encoding="utf-8")
    section = page.split(f"# {heading}\n", 1)[1].split("\n#", 1)[0]
    return "".join(re.findall(r"^```sh\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL))


class Deployment:
    """One deployment: `shell` runs the README's commands in it, `compose` the tests' own."""

    def __init__(self, folder: Path, source: Path = SOURCE, **variables: str) -> None:
        self.folder = folder / source.name
        self.name = f"bentovox-test-{secrets.token_hex(4)}"
        self.variables = {"COMPOSE_PROJECT_NAME": self.name, **variables}
        self._known = example(source).keys()
        for one in {SOURCE, source}:  # deploy/ray uses files of deploy/compose
            ignore = shutil.ignore_patterns(*_NOT_COPIED)
            shutil.copytree(one, folder / one.name, ignore=ignore)

    def shell(self, script: str, **variables: str) -> str:
        """Run commands in the folder and return what they print; fail with all that they said."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("BENTOVOX_", "COMPOSE_")) and name not in self._known
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env={**kept, **self.variables, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def compose(self, arguments: str, **variables: str) -> str:
        """Run one command of compose and return what it prints."""
        return self.shell(f"docker compose {arguments}", **variables)

    def rendered(self, **variables: str) -> dict[str, Any]:
        """Return what compose makes of the files."""
        found: dict[str, Any] = yaml.safe_load(self.compose("config", **variables))
        return found

    def url(self, port: int = 8080) -> str:
        """Return where nginx listens."""
        return f"http://{self.compose(f'port nginx {port}').strip()}"

    def state(self, service: str) -> dict[str, Any]:
        """Return what the engine knows of a service's container."""
        said = self.shell(f"docker inspect $(docker compose ps --all --quiet {service})")
        found: dict[str, Any] = json.loads(said)[0]
        return found

    def secret(self, name: str, text: str) -> None:
        """Write a secret's file as the README does: into the same file, readable for all."""
        path = self.folder / ".secrets" / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)


@dataclass(frozen=True)
class Stack:
    """A running deployment, the key it requires, and the answer to the README's hello before that.

    `without_a_model` is its state before transcription had a model.
    """

    deployment: Deployment
    key: str
    hello_without_a_key: str
    without_a_model: dict[str, Any]

    @property
    def url(self) -> str:
        """Where nginx listens: another port once it was made anew."""
        return self.deployment.url()

    @property
    def headers(self) -> dict[str, str]:
        """What a client with the key sends."""
        return {"authorization": f"Bearer {self.key}"}

    @contextlib.contextmanager
    def client(self, key: str = "") -> Iterator[openai.OpenAI]:
        """Give OpenAI's own client."""
        with openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=key or self.key, max_retries=0, timeout=60
        ) as client:
            yield client
