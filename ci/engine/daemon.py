"""Starts a docker engine of our own beside whatever else runs, and ends it without a trace."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

from ci.engine.packages import programs
from ci.errors import CiError
from ci.terminal import say

_READY_S: Final = 30.0
_END_S: Final = 60.0
_SUBNETS: Final = range(16, 250)
_started: dict[int, subprocess.Popen[bytes]] = {}
"""Engines that this process started, and so must reap."""


@dataclasses.dataclass(frozen=True)
class Engine:
    """An engine with its programs and images in `home`, and its socket at a short path in /run."""

    home: Path

    @property
    def run(self) -> Path:
        """Return the folder of its socket and its process id."""
        mark = hashlib.sha256(str(self.home.resolve()).encode()).hexdigest()[:8]
        return Path("/run", f"bentovox-{mark}")

    @property
    def bridge(self) -> str:
        """Return the name of its network bridge."""
        return f"bx-{self.run.name[-8:]}"

    @property
    def host(self) -> str:
        """Return its DOCKER_HOST."""
        return f"unix://{self.run / 'docker.sock'}"

    @property
    def log(self) -> Path:
        """Return what the engine writes."""
        return self.home / "dockerd.log"

    def variables(self) -> dict[str, str]:
        """Return the environment in which `docker` uses this engine."""
        path = f"{self.home / 'bin'}:{os.environ.get('PATH', '')}"
        config = str(self.home / "docker")
        return {"DOCKER_HOST": self.host, "DOCKER_CONFIG": config, "PATH": path}

    def pid(self) -> int | None:
        """Return the engine's process id; None if it does not run."""
        try:
            pid = int((self.run / "docker.pid").read_text(encoding="utf-8"))
            name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
        return pid if name == "dockerd" else None

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers.

        Raises:
            CiError: it cannot run here; the message is the last line of its log.
        """
        if self.pid() is not None:
            return
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        bin_ = programs(self.home)
        shutil.rmtree(self.run, ignore_errors=True)
        self.run.mkdir(mode=0o700)
        self._make_bridge()
        environ = {**os.environ, **self.variables()}
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [
                    str(bin_ / "dockerd"),
                    *("--config-file", "/dev/null", "--host", self.host),
                    *("--data-root", str(self.home / "data"), "--exec-root", str(self.run / "x")),
                    *("--pidfile", str(self.run / "docker.pid"), "--bridge", self.bridge),
                    # No rule of the host's firewall is touched; names resolve inside networks.
                    *("--iptables=false", "--ip6tables=false"),
                    "--feature=containerd-snapshotter=true",
                ],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        began = time.monotonic()
        while not self._answers(environ):
            if process.poll() is not None or time.monotonic() - began > _READY_S:
                self.stop()
                lines = self.log.read_text(errors="replace").strip().splitlines() or ["no word"]
                raise CiError(f"the engine did not start: {lines[-1][-300:]} ({self.log})")
            time.sleep(0.1)
        _started[process.pid] = process
        say(f"A docker engine answers at {self.host}")

    def stop(self) -> None:
        """Stop it, by its process id, and remove its network; its images stay in `home`."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            began = time.monotonic()
            own = _started.pop(pid, None)
            while self.pid() is not None and (own is None or own.poll() is None):
                if time.monotonic() - began > _END_S:
                    os.kill(pid, signal.SIGKILL)
                    break
                time.sleep(0.1)
            if own is not None:
                own.wait()
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(["ip", "link", "delete", self.bridge], capture_output=True, check=False)  # noqa: S607
        for mount in self._mounts():
            subprocess.run(["umount", "--lazy", mount], capture_output=True, check=False)  # noqa: S607
        shutil.rmtree(self.run, ignore_errors=True)

    def _answers(self, environ: dict[str, str]) -> bool:
        command = [str(self.home / "bin" / "docker"), "version"]
        return not subprocess.run(command, env=environ, capture_output=True, check=False).returncode

    def _make_bridge(self) -> None:
        taken = subprocess.run(
            ["ip", "-4", "addr"],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        first = int(self.run.name[-2:], 16) % len(_SUBNETS)
        order = [*_SUBNETS[first:], *_SUBNETS[:first]]
        subnet = next((n for n in order if f" 172.29.{n}." not in taken), None)
        if subnet is None:
            raise CiError("no network of 172.29.0.0/16 is free here for the engine's bridge")
        for command in (
            ("link", "add", self.bridge, "type", "bridge"),
            ("addr", "add", f"172.29.{subnet}.1/24", "dev", self.bridge),
            ("link", "set", self.bridge, "up"),
        ):
            subprocess.run(["ip", *command], capture_output=True, check=False)  # noqa: S607

    def _mounts(self) -> list[str]:
        lines = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
        points = [line.split()[1] for line in lines]
        ours = (str(self.run), str(self.home / "data"))
        return sorted((point for point in points if point.startswith(ours)), reverse=True)
