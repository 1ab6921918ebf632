"""A registry of this machine's own: Debian's docker-registry, or the same in a container."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

import yaml

from ci import docker
from ci.errors import CiError

IMAGE: Final = "registry:2.8.3"
HOST: Final = "127.0.0.1"

_READY_S: Final = 20.0
_STOP_S: Final = 10.0
_POLL_S: Final = 0.05
_STARTED: Final[dict[str, subprocess.Popen[bytes]]] = {}
"""What this process started, by id: it must be waited for, or it stays as a zombie."""


@dataclasses.dataclass(frozen=True)
class Registry:
    """One registry: its folder and its port; `remote` is what a mirror fetches from."""

    folder: Path
    port: int
    remote: str = ""

    @property
    def address(self) -> str:
        """Return what stands before the name of an image in it."""
        return f"{HOST}:{self.port}"

    @property
    def data(self) -> Path:
        """Return where its blobs are."""
        return self.folder / "data"

    @property
    def stored(self) -> Path:
        """Return where the registry puts what it has, below `data`."""
        return self.data / "docker" / "registry" / "v2"

    @property
    def log(self) -> Path:
        """Return what it logs to."""
        return self.folder / "log"

    @property
    def config(self) -> Path:
        """Return its configuration, which `start` writes."""
        return self.folder / "config.yml"

    @property
    def process_file(self) -> Path:
        """Return where its process's id stands, or its container's."""
        return self.folder / "pid"

    @property
    def container(self) -> str:
        """Return the name of its container, where it runs in one."""
        return f"bentovox-registry-{self.port}"


def start(registry: Registry) -> bool:
    """Start a registry and wait until it answers; False if it ran already.

    Raises:
        CiError: its port is taken, it does not start, or there is nothing to start.
    """
    if running(registry):
        if port_of(registry.folder) != registry.port:
            raise CiError(
                f"the registry of {registry.folder} runs on port {port_of(registry.folder)}: "
                "stop it first, or name another --folder"
            )
        return False
    if _is_taken(registry.port):
        raise CiError(
            f"port {registry.port} is taken by another program: choose one with --port, "
            f"or stop what listens there"
        )
    registry.data.mkdir(parents=True, exist_ok=True)
    binary = found()
    if binary is None:
        docker.ready()
    within = registry if binary else dataclasses.replace(registry, folder=Path("/registry"))
    registry.config.write_text(yaml.safe_dump(configured(within)), encoding="utf-8")
    process = None
    if binary:
        process = _start_process(registry, binary)
    else:
        _start_container(registry)
    deadline = time.monotonic() + _READY_S
    while not answers(registry):
        ended = process.poll() is not None if process else not running(registry)
        if ended or time.monotonic() > deadline:
            if process:
                process.kill()
            stop(registry)
            raise CiError(f"the registry did not start: {_last_line(registry)}")
        time.sleep(_POLL_S)
    return True


def stop(registry: Registry) -> bool:
    """Stop a registry; False if it did not run.

    Raises:
        CiError: it does not end.
    """
    was_running = running(registry)
    text = _process_text(registry)
    if was_running and text.isdigit():
        os.kill(int(text), signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        while running(registry):
            if time.monotonic() > deadline:
                raise CiError(f"the registry does not end: process {text}; its log: {registry.log}")
            time.sleep(_POLL_S)
    elif text == registry.container:
        docker.ask("rm", "--force", registry.container)
    if text in _STARTED:
        _STARTED.pop(text).wait()
    registry.process_file.unlink(missing_ok=True)
    return was_running


def running(registry: Registry) -> bool:
    """Tell whether its process, or its container, is there."""
    text = _process_text(registry)
    if text == registry.container:
        return docker.ask("inspect", "--format", "{{.State.Running}}", text) == "true"
    if not text.isdigit():
        return False
    if text in _STARTED and _STARTED[text].poll() is not None:
        return False
    try:
        said = Path("/proc", text, "cmdline").read_bytes()
    except OSError:
        return False
    return str(registry.config).encode() in said.split(b"\0")  # not another that has its id now


def answers(registry: Registry) -> bool:
    """Tell whether it speaks as a registry."""
    try:
        with urllib.request.urlopen(f"http://{registry.address}/v2/", timeout=5) as reply:
            return bool(reply.headers.get("Docker-Distribution-Api-Version") == "registry/2.0")
    except (OSError, ValueError):
        return False


def size(registry: Registry) -> int:
    """Return the bytes of its blobs; what a push adds to it is what that push sent."""
    return sum(blob.stat().st_size for blob in (registry.stored / "blobs").rglob("data"))


def configured(registry: Registry) -> dict[str, Any]:
    """Return a registry's configuration."""
    inside = registry.folder == Path("/registry")
    said: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(registry.data)},
            "delete": {"enabled": True},
        },
        "http": {"addr": f"0.0.0.0:{registry.port}" if inside else registry.address},
    }
    return {**said, "proxy": {"remoteurl": registry.remote}} if registry.remote else said


def port_of(folder: Path) -> int | None:
    """Return the port that a folder's registry was started with last, None if it never was."""
    try:
        said = yaml.safe_load((folder / "config.yml").read_text(encoding="utf-8"))
        return int(said["http"]["addr"].rpartition(":")[2])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return None


def found() -> str | None:
    """Return the path of docker-registry, None where there is none."""
    return shutil.which("docker-registry")


def _start_process(registry: Registry, binary: str) -> subprocess.Popen[bytes]:
    with registry.log.open("ab") as log:
        process = subprocess.Popen(
            [binary, "serve", str(registry.config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _STARTED[str(process.pid)] = process
    registry.process_file.write_text(str(process.pid), encoding="utf-8")
    return process


def _start_container(registry: Registry) -> None:
    docker.ask("rm", "--force", registry.container)
    docker.call(
        *("run", "--detach", "--name", registry.container),
        *("--publish", f"{registry.address}:{registry.port}"),
        *in_container(registry),
        *("serve", "/registry/config.yml"),
    )
    registry.process_file.write_text(registry.container, encoding="utf-8")


def in_container(registry: Registry) -> list[str]:
    """Return docker's arguments for a container that sees a registry's folder."""
    return ["--volume", f"{registry.folder.resolve()}:/registry", IMAGE]


def _process_text(registry: Registry) -> str:
    try:
        return registry.process_file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def _last_line(registry: Registry) -> str:
    with contextlib.suppress(OSError):
        lines = registry.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if lines:
            return f"{lines[-1]} (more in {registry.log})"
    return f"it said nothing; its log is {registry.log}"
