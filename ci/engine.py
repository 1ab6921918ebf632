"""`python -m ci engine`: a throw-away docker engine, where none is installed (Debian, as root).

    eval "$(python -m ci engine start)"     start it, and use it in this shell
    python -m ci engine stop                stop it; its images stay in /var/cache/bentovox

Docker, buildx and compose come from Debian's archive into one folder, past the host's apt: from
`sid`, since a stable release is too old for `COPY --link` and for a registry cache of `mode=max`.
What touches the kernel (runc, iptables) is of the host's release. The host's own packages, networks
and firewall stay as they are; the engine has a bridge and a socket of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

from ci.errors import CiError
from ci.paths import ROOT
from ci.terminal import last_line, ran, result, say

_CHECKOUT: Final = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
HOME: Final = Path("/var/cache/bentovox", f"engine-{_CHECKOUT}")
"""One for each checkout, where only root may write, since root runs what is in it. Not inside the
checkout: BentoML walks all of that when it builds."""

_READY_S: Final = 30.0
_END_S: Final = 60.0
_SUBNETS: Final = range(16, 250)

_NEW: Final = ("docker.io", "docker-cli", "docker-buildx", "docker-compose", "containerd")
_HOST: Final = (
    *("runc", "libseccomp2", "docker-registry", "mmdebstrap"),
    *("iptables", "libxtables12", "libip4tc2", "libip6tc2", "libnftnl11", "libmnl0"),
    *("libnfnetlink0", "libnetfilter-conntrack3"),
)
_ARCHIVE: Final = "http://deb.debian.org/debian"
_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"
_PLUGINS: Final = "usr/libexec/docker/cli-plugins"
_WRAPPED: Final = {
    "runc": "usr/sbin/runc",
    "iptables": "usr/sbin/xtables-nft-multi iptables",
    "ip6tables": "usr/sbin/xtables-nft-multi ip6tables",
}
_LINKED: Final = (
    *("usr/sbin/dockerd", "usr/sbin/docker-proxy", "usr/bin/docker", "usr/bin/docker-registry"),
    *("usr/bin/containerd", "usr/bin/containerd-shim-runc-v2", "usr/bin/mmdebstrap"),
)


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.add_argument("action", choices=("start", "stop"))
    parser.add_argument("--home", type=Path, default=HOME, help="its folder (default: %(default)s)")


def work(given: argparse.Namespace) -> None:
    """Start or stop the engine."""
    engine = Engine(given.home.absolute())
    if given.action == "start":
        engine.start()
        for name, value in engine.variables().items():
            result(f"export {name}={shlex.quote(value)}")
    else:
        engine.stop()


class Engine:
    """An engine with its programs and images in `home`."""

    def __init__(self, home: Path) -> None:
        mark = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:8]
        self.home = home
        self.run = Path("/run", f"bentovox-{mark}")  # its socket's path must be short
        self.bridge = f"bx-{mark}"
        self.host = f"unix://{self.run / 'docker.sock'}"
        self._process: subprocess.Popen[bytes] | None = None  # if this object started it

    def variables(self) -> dict[str, str]:
        """Return the environment in which `docker` uses this engine."""
        path = f"{self.home / 'bin'}:{os.environ.get('PATH', '')}"
        config = str(self.home / "docker")
        return {"DOCKER_HOST": self.host, "DOCKER_CONFIG": config, "PATH": path}

    def pid(self) -> int | None:
        """Return the engine's process id; None if it does not run."""
        if self._process and self._process.poll() is None:
            return self._process.pid  # it may not have written that yet
        try:
            pid = int((self.run / "docker.pid").read_text(encoding="utf-8"))
            name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
        return pid if name == "dockerd" else None

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""
        if self.pid() is not None:
            return
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        bin_ = programs(self.home)
        shutil.rmtree(self.run, ignore_errors=True)
        self.run.mkdir(mode=0o700)
        self._make_bridge()
        environ = {**os.environ, **self.variables()}
        logged = self.home / "dockerd.log"
        with logged.open("wb") as log:
            self._process = subprocess.Popen(
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
        while ran(bin_ / "docker", "version", env=environ).returncode:
            if self._process.poll() is not None or time.monotonic() - began > _READY_S:
                self.stop()
                said = last_line(logged.read_text(errors="replace"))
                raise CiError(f"the engine did not start: {said[-300:]} ({logged})")
            time.sleep(0.1)
        say(f"A docker engine answers at {self.host}")

    def stop(self) -> None:
        """Stop it, by its process id, and remove its network; its images stay in `home`."""
        began = time.monotonic()
        if pid := self.pid():
            os.kill(pid, signal.SIGTERM)
        while pid and self.pid():
            if time.monotonic() - began > _END_S:
                os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.1)
        if self._process:
            self._process.wait()
        with contextlib.suppress(FileNotFoundError):
            ran("ip", "link", "delete", self.bridge)
        for mount in self._mounts():
            ran("umount", "--lazy", mount)
        shutil.rmtree(self.run, ignore_errors=True)

    def _make_bridge(self) -> None:
        taken = ran("ip", "-4", "addr").stdout
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
            ran("ip", *command)

    def _mounts(self) -> list[str]:
        lines = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
        points = [line.split()[1] for line in lines]
        ours = (str(self.run), str(self.home / "data"))
        return sorted((point for point in points if point.startswith(ours)), reverse=True)


def programs(home: Path) -> Path:
    """Return the folder with the engine's programs, which are downloaded if it is not complete."""
    bin_ = home / "bin"
    if (bin_ / "made").is_file():
        return bin_
    release = codename()
    began = home / "packages"
    shutil.rmtree(began, ignore_errors=True)
    shutil.rmtree(bin_, ignore_errors=True)
    root = began / "root"
    say("Bringing docker from Debian's archive: 100 MB, once")
    for suite, names in (("sid", _NEW), (release, _HOST)):
        unpack(names, root, began / suite, suite)
    _arrange(root, bin_, home / "docker")
    shutil.rmtree(began / "sid")
    (bin_ / "made").touch()
    return bin_


def unpack(names: tuple[str, ...], root: Path, work: Path, suite: str) -> None:
    """Unpack Debian's packages into `root`, without those that they depend on."""
    got = work / "got"
    for folder in (root, got, work / "lists/partial", work / "cache/archives/partial"):
        folder.mkdir(parents=True, exist_ok=True)
    sources = work / "sources.list"
    sources.write_text(f"deb [signed-by={_KEYRING}] {_ARCHIVE} {suite} main\n", encoding="utf-8")
    (work / "status").touch()
    options = [
        *("-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=/dev/null"),
        *("-o", f"Dir::State::lists={work / 'lists'}", "-o", f"Dir::Cache={work / 'cache'}"),
        *("-o", f"Dir::State::status={work / 'status'}", "-o", "APT::Sandbox::User=root"),
        "-qq",
    ]
    _run("apt-get", *options, "update", cwd=got)
    _run("apt-get", *options, "download", *names, cwd=got)
    for package in sorted(got.glob("*.deb")):
        _run("dpkg", "-x", str(package), str(root))


def codename() -> str:
    """Return the host's release, such as `bookworm`."""
    if os.geteuid() != 0:
        raise CiError("a throw-away engine needs root; without it, use a docker that is installed")
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian" or not _KEYRING.is_file():
        raise CiError("a throw-away engine is made of Debian's packages; here, install docker")
    return release["VERSION_CODENAME"]


def _arrange(root: Path, bin_: Path, config: Path) -> None:
    """Link every program into `bin_`, and docker's plugins into `config`."""
    bin_.mkdir()
    for program in _LINKED:
        (bin_ / Path(program).name).symlink_to(root / program)
    for name, target in _WRAPPED.items():
        libraries = root / _LIBRARIES
        (bin_ / name).write_text(
            "#!/bin/sh\n"
            f"export LD_LIBRARY_PATH={libraries} XTABLES_LIBDIR={libraries / 'xtables'}\n"
            f'exec {root}/{target} "$@"\n',
            encoding="utf-8",
        )
        (bin_ / name).chmod(0o755)
    shutil.rmtree(config, ignore_errors=True)
    config.mkdir()
    (config / "cli-plugins").symlink_to(root / _PLUGINS)


def _run(*command: str, cwd: Path | None = None) -> None:
    done = ran(*command, cwd=cwd)
    if done.returncode:
        raise CiError(f"{command[0]} failed: {last_line(done.stderr or done.stdout)}")
