"""Machines for tests: each has its own network, processes and `/tmp/ray`; a switch joins them.

A machine lives as long as its first process, which ends with the test run at the latest. The kernel
then ends whatever else runs there and takes the network away, so that nothing can be left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_TOOLS: Final = ("ip", "mount", "nsenter", "sh", "unshare")
_NAMESPACES: Final = ("--net", "--mount", "--pid")
_FIRST: Final = (
    "ip link set lo up && mkdir -p /tmp/ray && mount --bind . /tmp/ray"
    # Small buffers, so that what a client does not read has not been made yet.
    ' && echo "4096 16384 32768" | tee /proc/sys/net/ipv4/tcp_rmem >/proc/sys/net/ipv4/tcp_wmem'
    " && echo up && exec cat"
)
_MADE_OF: Final = (
    *("unshare", *_NAMESPACES, "--fork", "--kill-child", "--mount-proc"),
    *("sh", "-c", _FIRST),
)
_CLONE_NEWNET: Final = 0x40000000
_LISTENS: Final = "0A"  # TCP_LISTEN


class Listener(NamedTuple):
    """A TCP port that a process listens on, at one address or at all (`::`, `0.0.0.0`)."""

    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int
    command: str


def lacking() -> str:
    """Return why there can be no machines here; empty if there can."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"no machines without {', '.join(missing)}"
    trial = subprocess.run(_MADE_OF, input=b"", capture_output=True, check=False)
    if trial.returncode:
        return "no machines: they take root, who may make namespaces"
    return ""


class Machine:
    """One machine. What Ray keeps in `/tmp/ray` is in `folder`."""

    def __init__(self, folder: Path, number: int) -> None:
        folder.mkdir(parents=True)
        self.address = f"10.99.0.{number}"
        self.folder = folder
        self._started: list[subprocess.Popen[bytes]] = []
        self._unshare = subprocess.Popen(
            _MADE_OF, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._unshare.stdout is not None
        assert self._unshare.stdout.readline() == b"up\n"
        (self.first,) = psutil.Process(self._unshare.pid).children()

    def _within(self, command: tuple[str, ...]) -> list[str]:
        return ["nsenter", f"--target={self.first.pid}", *_NAMESPACES, "--wd=.", *command]

    def run(self, *command: str) -> None:
        """Run a command that has to succeed."""
        subprocess.run(self._within(command), check=True, capture_output=True)

    def start(
        self, name: str, *command: str, cwd: Path, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a command whose output goes to `NAME.log` in the machine's folder."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                self._within(command),
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._started.append(process)
        return process

    def log(self, name: str) -> str:
        """Return the end of what a command has said."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-4000:]

    def processes(self) -> list[psutil.Process]:
        """Return what was started here and lives."""
        here = Path(f"/proc/{self.first.pid}/ns/pid").readlink()
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if Path(f"/proc/{process.pid}/ns/pid").readlink() != here:
                    continue
                if process != self.first and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def commands(self) -> dict[int, str]:
        """Return the command lines of its processes, by their ids."""
        found = {}
        for process in self.processes():
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                found[process.pid] = " ".join(process.cmdline())
        return found

    def listeners(self) -> set[Listener]:
        """Return who listens on TCP ports, as the kernel knows it."""
        owners = {}
        for pid, command in self.commands().items():
            with contextlib.suppress(OSError):
                for file in Path(f"/proc/{pid}/fd").iterdir():
                    owners[str(file.readlink())] = command
        found = set()
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{self.first.pid}/net/{table}").read_text().splitlines()[1:]:
                _, local, _, state, *_ = words = line.split()
                if state == _LISTENS:
                    address, port = local.split(":")
                    owner = owners.get(f"socket:[{words[9]}]", "")
                    found.add(Listener(_address(address), int(port, 16), owner))
        return found

    def kill(self) -> None:
        """Kill everything that runs on it; the machine and its network stay."""
        while left := self.processes():  # what starts meanwhile, too
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def end(self) -> None:
        """End the machine with all that runs on it."""
        self._unshare.communicate()
        for process in self._started:
            process.wait()


class Switch(Machine):
    """What joins the machines. Within its context the tests are on it, and so reach them all."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "switch", 254)
        self._folder = folder
        self._machines: list[Machine] = []
        self._outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self._ip("link add switch type bridge")
        self._ip(f"addr add {self.address}/24 dev switch")
        self._ip("link set switch up")

    def machine(self, name: str) -> Machine:
        """Join a new machine."""
        number = len(self._machines) + 1
        made = Machine(self._folder / name, number)
        self._machines.append(made)
        self._ip(f"link add port{number} master switch type veth peer name eth0")
        self._ip(f"link set eth0 netns {made.first.pid}")
        self._ip(f"link set port{number} up")
        made.run("ip", "addr", "add", f"{made.address}/24", "dev", "eth0")
        made.run("ip", "link", "set", "eth0", "up")
        return made

    def _ip(self, command: str) -> None:
        """Run ip here, but among the process ids of the outside."""
        enter = ["nsenter", f"--target={self.first.pid}", "--net", "ip", *command.split()]
        subprocess.run(enter, check=True, capture_output=True)

    def __enter__(self) -> Self:
        _enter(os.open(f"/proc/{self.first.pid}/ns/net", os.O_RDONLY))
        return self

    def __exit__(self, *_: object) -> None:
        _enter(self._outside)
        for machine in (*self._machines, self):
            machine.end()


def _enter(network: int) -> None:
    """Move this thread, and what it starts from now on, into a network."""
    failed = ctypes.CDLL(None, use_errno=True).setns(network, _CLONE_NEWNET)
    os.close(network)
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _address(listed: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Read an address of /proc/net/tcp: hexadecimal words in the machine's byte order."""
    words: Iterator[bytes] = (
        bytes.fromhex(listed[at : at + 8])[::-1] for at in range(0, len(listed), 8)
    )
    address = ipaddress.ip_address(b"".join(words))
    return getattr(address, "ipv4_mapped", None) or address
