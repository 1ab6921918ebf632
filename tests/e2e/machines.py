"""Machines for tests: each has its own network, processes and /tmp, and all are on one switch.

A machine lives as long as its first process, and that one only until the test run ends. The kernel
then ends whatever else runs there and takes the network away, so that nothing is ever left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOOLS: Final = ("ip", "mount", "nsenter", "sh", "unshare")
_NETWORK: Final = "10.99.0"
_FIRST: Final = 'ip link set lo up && mount --bind "$0" /tmp && echo up && exec cat'
_CLONE_NEWNET: Final = 0x40000000


def lacking() -> str:
    """Return why there can be no machines here; empty if there can."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"no machines: {', '.join(missing)} is not installed"
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "true"]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        return "no machines: only root may make namespaces, and not in every container"
    return ""


class Machine:
    """One machine; its `/tmp` is `folder`."""

    def __init__(self, folder: Path, number: int) -> None:
        folder.mkdir(exist_ok=True)
        self.address = f"{_NETWORK}.{number}"
        namespaces = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        self._unshare = subprocess.Popen(
            ["unshare", *namespaces, "sh", "-c", _FIRST, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._unshare.stdout is not None
        assert self._unshare.stdout.readline() == b"up\n"
        (self.first,) = psutil.Process(self._unshare.pid).children()

    def within(self, *command: str) -> list[str]:
        """Return the command that runs another one on this machine."""
        target = ("--target", str(self.first.pid))
        return ["nsenter", *target, "--net", "--mount", "--pid", f"--wd={Path.cwd()}", *command]

    def run(self, *command: str) -> None:
        """Run a command that has to succeed."""
        subprocess.run(self.within(*command), check=True, capture_output=True)

    def processes(self) -> list[psutil.Process]:
        """Return what was started on it and lives."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                here = os.readlink(f"/proc/{process.pid}/ns/pid") == self._namespace
                if here and process != self.first and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    @property
    def _namespace(self) -> str:
        return os.readlink(f"/proc/{self.first.pid}/ns/pid")

    def kill(self) -> None:
        """End everything that runs on it at once, as a loss of power does; its network stays."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def end(self) -> None:
        """End the machine with all that it has."""
        self._unshare.communicate()


class Switch(Machine):
    """What joins machines. Tests run at it, so that they reach them all."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 254)
        self._folder = folder
        self._machines: list[Machine] = []
        self._own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self.run("ip", "link", "add", "switch", "type", "bridge")
        self.run("ip", "addr", "add", f"{self.address}/24", "dev", "switch")
        self.run("ip", "link", "set", "switch", "up")

    def machine(self, name: str) -> Machine:
        """Join a new machine."""
        number = len(self._machines) + 1
        made = Machine(self._folder / name, number)
        self._machines.append(made)
        port = f"port{number}"
        for command in (
            ("link", "add", port, "master", "switch", "type", "veth", "peer", "name", "eth0"),
            ("link", "set", "eth0", "netns", str(made.first.pid)),
            ("link", "set", port, "up"),
        ):
            on_switch = ("nsenter", "--target", str(self.first.pid), "--net", "ip", *command)
            subprocess.run(on_switch, check=True, capture_output=True)
        made.run("ip", "addr", "add", f"{made.address}/24", "dev", "eth0")
        made.run("ip", "link", "set", "eth0", "up")
        return made

    def __enter__(self) -> Self:
        _enter(os.open(f"/proc/{self.first.pid}/ns/net", os.O_RDONLY))
        return self

    def __exit__(self, *_: object) -> None:
        _enter(self._own)
        for machine in (*self._machines, self):
            machine.end()


def _enter(namespace: int) -> None:
    """Move this thread, and those it starts, into a network."""
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.setns(namespace, _CLONE_NEWNET)
    os.close(namespace)
    if failed:
        raise OSError(ctypes.get_errno(), "setns")
