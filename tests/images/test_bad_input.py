"""Errors as users see them: one line, an exit code, nothing left behind.

Each verb runs as a process in a copy of the repository with an error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import psutil
import pytest

from ci import docker
from ci.engine import HOME, Engine
from ci.paths import ROOT
from tests.e2e.server import eventually
from tests.engine import running as started
from tests.standin import DEBIAN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HELD = ("ci", "bentos", "services", "bentofile.yaml", "pyproject.toml", "LICENSE")
NETWORK = ("--network", "host")


@dataclasses.dataclass
class Ended:
    """How a verb ended: exit code, output, and its progress with its last line."""

    code: int
    out: str
    lines: list[str]

    @property
    def said(self) -> str:
        """Return the one line that tells what is wrong; nothing else may look like a fault."""
        assert self.out == ""
        assert not any("Traceback" in line for line in self.lines), self.lines
        assert self.lines[-1].startswith("python -m ci "), self.lines
        assert sum(line.startswith("python -m ci ") for line in self.lines) == 1, self.lines
        return self.lines[-1]


class Copy:
    """A copy of the repository, to put an error into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in HELD:
            source, target = ROOT / name, folder / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source, target)

    def change(self, path: str, before: str, after: str) -> None:
        file = self.folder / path
        text = file.read_text(encoding="utf-8")
        assert before in text
        file.write_text(text.replace(before, after), encoding="utf-8")

    def start(self, *words: str, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            # Whoever started the tests may have had SIGINT ignored, as nohup does.
            ["env", "--default-signal=INT", sys.executable, "-m", "ci", *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, **environ: str) -> Ended:
        with self.start(*words, **environ) as process:
            out, said = process.communicate()
        return Ended(process.returncode, out, said.splitlines())

    @property
    def bentos(self) -> list[str]:
        """Return what lies where bentos are built: finished ones, and whatever was left behind."""
        found = (self.folder / ".nox" / "bentos").glob("*/*")
        return sorted(f"{path.parent.name}/{path.name}" for path in found)


@pytest.fixture
def copy(engine: None, tmp_path: Path) -> Copy:  # noqa: ARG001
    return Copy(tmp_path / "repository")


@pytest.fixture
def images(engine: None) -> Iterator[None]:  # noqa: ARG001
    """No image may be new, or move, while the test runs."""

    def listed() -> str:
        return docker.call(
            "image", "ls", "--no-trunc", "--format={{json .}}", "--filter=dangling=false"
        )

    def names(text: str) -> set[tuple[str, str]]:
        found = [json.loads(line) for line in text.splitlines()]
        return {(f"{one['Repository']}:{one['Tag']}", one["ID"]) for one in found}

    before = names(listed())
    yield
    assert names(listed()) == before


@pytest.fixture
def dead_port() -> Iterator[int]:
    """Hold a port on which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("verb", ["image", "tags"])
def test_an_unknown_bento(copy: Copy, verb: str) -> None:
    ended = copy.run(verb, "gatway")
    assert ended.code == 1
    assert ended.said == (
        f"python -m ci {verb}: there is no bento 'gatway'; there are chat, conversation, gateway, "
        "ray, speech, transcription, stack"
    )
    assert copy.bentos == []


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("words", [("image", "gateway"), ("base", "build", "slim")])
def test_an_unknown_platform(copy: Copy, words: tuple[str, ...]) -> None:
    ended = copy.run(*words, "--platform", "cuda12")
    assert ended.code == 1
    assert ended.said == (
        f"python -m ci {words[0]}: 'cuda12' is no platform of platforms.toml; there are cuda13, cpu"
    )


@pytest.mark.usefixtures("images")
def test_a_platform_that_a_bento_is_not_built_for(copy: Copy) -> None:
    ended = copy.run("image", "gateway", "--platform", "cuda13")
    assert ended.code == 1
    assert "gateway is not built for cuda13; its platforms are cpu" in ended.said
    assert copy.bentos == []


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("docker:", "conda: {}\ndocker:", "conda: Extra inputs are not permitted"),
        (
            'base_image: "bentovox/base-slim:cpu"',
            'base_image: "debian:12\\nRUN id > /tmp/x"',
            "docker.base_image: 'debian:12\\nRUN id > /tmp/x' is not a single plain word",
        ),
        (
            "docker:",
            "envs: [{name: HF_TOKEN, value: x}]\ndocker:",
            "envs.0: HF_TOKEN looks like a secret",
        ),
        ("name:", "name: [", "bentos/gateway/bentofile.yaml: while parsing"),
    ],
    ids=["unknown key", "injection", "secret", "no yaml"],
)
def test_a_bentofile_that_may_not_be_built(copy: Copy, before: str, after: str, said: str) -> None:
    copy.change("bentos/gateway/bentofile.yaml", before, after)
    ended = copy.run("image", "gateway", *NETWORK)
    assert ended.code == 1
    assert ended.said.startswith("python -m ci image: bentos/gateway/bentofile.yaml: ")
    assert said in ended.said
    assert copy.bentos == []


@pytest.mark.usefixtures("images")
def test_a_missing_lock(copy: Copy) -> None:
    (copy.folder / "bentos/gateway/requirements.cpu.txt").unlink()
    ended = copy.run("image", "gateway", *NETWORK)
    assert ended.code == 1
    assert ended.said == (
        "python -m ci image: gateway has no lock for cpu: bentos/gateway/requirements.cpu.txt is "
        "missing; make it with `nox -s lock`"
    )
    assert copy.bentos == []


@pytest.mark.usefixtures("images")
def test_a_lock_that_is_not_pinned(copy: Copy) -> None:
    copy.change("bentos/gateway/requirements.cpu.txt", "\nbentoml==", "\nbentoml>=")
    ended = copy.run("image", "gateway", *NETWORK)
    assert ended.code == 1
    assert "is not name==version; `nox -s lock`" in ended.said
    assert copy.bentos == []


@pytest.mark.usefixtures("images")
def test_a_torch_that_is_not_the_platforms(copy: Copy) -> None:
    for lock in copy.folder.glob("bentos/*/requirements.cpu.txt"):
        text = lock.read_text(encoding="utf-8")
        lock.write_text(text.replace("torch==2.13.0", "torch==2.14.0"), encoding="utf-8")
    ended = copy.run("image", "chat", "--platform", "cpu", *NETWORK)
    assert ended.code == 1
    assert ended.said == (
        "python -m ci image: requirements.cpu.txt locks torch 2.14.0, platforms.toml has 2.13.0 "
        "for cpu: change both together, and the image's tag with them"
    )
    assert copy.bentos == []


@pytest.mark.usefixtures("images")
def test_code_that_cannot_be_imported_leaves_no_half_bento(copy: Copy) -> None:
    (copy.folder / "services/gateway/service.py").write_text("import nowhere\n")
    ended = copy.run("image", "gateway", *NETWORK)
    assert ended.code == 1
    assert ended.said.startswith("python -m ci image: BentoML did not build bentovox-gateway: ")
    assert copy.bentos == []


@pytest.mark.parametrize("words", [("image", "gateway"), ("base", "build", "slim")])
def test_no_engine(copy: Copy, tmp_path: Path, words: tuple[str, ...]) -> None:
    host = f"unix://{tmp_path}/nobody.sock"
    ended = copy.run(*words, DOCKER_HOST=host)
    assert ended.code == 1
    assert ended.lines == [ended.said]
    assert f"no docker engine answers at {host}: start it, or on Debian as root" in ended.said
    assert copy.bentos == []


def test_a_registry_that_is_down_when_an_image_is_pushed(copy: Copy, dead_port: int) -> None:
    registry = f"127.0.0.1:{dead_port}"
    ended = copy.run("base", "build", "slim", "--registry", registry, "--push", *NETWORK)
    assert ended.code == 1
    assert "a registry does not answer: " in ended.said
    assert registry in ended.said
    for left in docker.call("image", "ls", f"--filter=reference={registry}/*/*", "-q").split():
        docker.call("image", "rm", "--force", left)  # whole, for the next push


@pytest.mark.usefixtures("images")
def test_a_push_to_nowhere(copy: Copy) -> None:
    ended = copy.run("image", "gateway", "--push")
    assert (ended.code, ended.lines) == (1, [ended.said])
    assert "--push needs --registry, such as --registry ghcr.io/me" in ended.said


def test_a_cache_that_is_down_costs_time_not_the_build(copy: Copy, dead_port: int) -> None:
    cache = f"type=registry,ref=127.0.0.1:{dead_port}/cache:cpu"
    ended = copy.run("base", "build", "slim", "--no-cache", "--cache-from", cache, *NETWORK)
    assert ended.code == 0, ended.lines
    assert "bentovox/base-slim:cpu-" in ended.out
    (told,) = [line for line in ended.lines if "/manifests/cpu" in line]
    assert " ERROR: failed to configure registry cache importer" in told
    assert told.endswith("connection refused")


@pytest.mark.usefixtures("images")
def test_a_build_that_is_interrupted_ends_in_the_engine_too(copy: Copy) -> None:
    seconds = f"300.{uuid.uuid4().int % 10**9}"  # a process that is like no other's
    copy.change("bentos/bases/Dockerfile", "RUN touch", f"RUN sleep {seconds}; touch")
    process = copy.start("base", "build", "slim", *NETWORK)
    try:
        eventually(lambda: running("sleep", seconds), 60, "the step is at work")
    finally:
        process.send_signal(signal.SIGINT)  # to it alone, as a supervisor does
        out, said = process.communicate()
    ended = Ended(process.returncode, out, said.splitlines())
    assert ended.code == 130
    assert ended.said == "python -m ci base: stopped"
    eventually(lambda: not running("sleep", seconds), 10, "the engine has given it up")


def running(*words: str) -> bool:
    return any(one.info["cmdline"] == [*words] for one in psutil.process_iter(["cmdline"]))


@contextlib.contextmanager
def small_engine(folder: Path, size: str) -> Iterator[dict[str, str]]:
    """Run a second engine whose disk is a small one of memory."""
    small = Engine(folder)
    data = small.home / "data"
    data.mkdir(parents=True)
    for name in ("bin", "docker"):
        (small.home / name).symlink_to(HOME / name)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", data], check=True)
    try:
        with started(small) as variables:
            yield variables
    finally:
        subprocess.run(["umount", "--lazy", data], check=False, capture_output=True)


@pytest.mark.usefixtures("images")
def test_an_engine_whose_disk_is_full(copy: Copy, tmp_path: Path) -> None:
    if not (HOME / "bin" / "made").exists():  # known once the tests' engine was started
        pytest.skip("an installed engine's disk is not filled; the tests' own is not here")
    archive = tmp_path / "debian.tar"
    docker.call("save", f"--output={archive}", DEBIAN)
    with small_engine(tmp_path / "small", "400m") as variables:
        environ = {**os.environ, **variables}
        subprocess.run(
            ["docker", "load", "--input", archive], env=environ, check=True, capture_output=True
        )
        ended = copy.run("base", "build", "slim", *NETWORK, **variables)
        left = subprocess.check_output(["docker", "image", "ls", "--quiet"], env=environ, text=True)
    assert ended.code == 1
    assert "the engine's disk is full; `docker system df` shows what is on it" in ended.said
    assert len(left.splitlines()) == 1, "Debian alone: no half base"
