"""A registry for a throw-away engine: Debian's docker-registry, on this machine only."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
import urllib.request
from typing import TYPE_CHECKING, Final

from ci.errors import CiError
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_READY_S: Final = 60.0
_POLL_S: Final = 0.05


@contextlib.contextmanager
def running(folder: Path) -> Iterator[str]:
    """Run a registry that keeps its blobs in `folder`; yield its `host:port`.

    Raises:
        CiError: there is no docker-registry on PATH, or it does not start.
    """
    binary = shutil.which("docker-registry")
    if binary is None:
        raise CiError("there is no docker-registry command: Debian's package of that name has it")
    folder.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{free_port()}"
    config = folder / "config.yml"  # JSON is YAML
    config.write_text(
        json.dumps(
            {
                "version": 0.1,
                "log": {"level": "warn", "accesslog": {"disabled": True}},
                "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
                "http": {"addr": address},
            }
        )
    )
    with (
        (folder / "log").open("ab") as log,
        subprocess.Popen([binary, "serve", str(config)], stdout=log, stderr=log) as process,
    ):
        try:
            deadline = time.monotonic() + _READY_S
            while not _answers(address):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise CiError(f"the registry did not start: see {folder / 'log'}")
                time.sleep(_POLL_S)
            yield address
        finally:
            process.terminate()


def size(folder: Path) -> int:
    """Return the bytes of its blobs; what a push adds to it is what that push sent."""
    blobs = folder / "data" / "docker" / "registry" / "v2" / "blobs"
    return sum(blob.stat().st_size for blob in blobs.rglob("data"))


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/v2/", timeout=5) as reply:
            return bool(reply.headers.get("Docker-Distribution-Api-Version") == "registry/2.0")
    except (OSError, ValueError):
        return False
