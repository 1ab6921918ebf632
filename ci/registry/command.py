"""`python -m ci registry`: a registry of this machine's own, for images, caches and tests.

    python -m ci registry start                127.0.0.1:5055, kept in .nox/registry
    python -m ci registry start --mirror       one that fetches from Docker Hub and keeps it
    python -m ci registry status               whether it answers, and what it holds
    python -m ci registry size                 its bytes: what they grow by, a push has sent
    python -m ci registry prune                remove what no tag names any more
    python -m ci registry stop

It listens on the loopback address only. Debian's `docker-registry` is used where it is on PATH (as
after `python -m ci engine start`); else the image registry:2.8.3, in a container. A mirror is
another registry, on 127.0.0.1:5056 and in .nox/registry-mirror: say --mirror to each verb, and
`dockerd --registry-mirror http://127.0.0.1:5056` uses it. While `prune` works, it is stopped;
a mirror drops by itself what it fetched a week ago.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ci import command, sizes
from ci.errors import CiError
from ci.paths import ROOT
from ci.registry import pruning, server
from ci.registry.server import Registry

if TYPE_CHECKING:
    import argparse

HUB: Final = "https://registry-1.docker.io"
PORT: Final = 5055
MIRROR_PORT: Final = 5056


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.parser("registry", __doc__)
    options.add_argument("action", choices=("start", "status", "size", "prune", "stop"))
    options.add_argument(
        "--mirror",
        nargs="?",
        const=HUB,
        default="",
        metavar="URL",
        help="a registry that fetches what it lacks from URL (default: Docker Hub)",
    )
    options.add_argument(
        "--port",
        type=int,
        metavar="N",
        help=f"default: the one it was started with, {PORT}, a mirror {MIRROR_PORT}",
    )
    options.add_argument(
        "--folder", type=Path, metavar="DIR", help="where it keeps all that it has"
    )
    return options


def main(arguments: list[str] | None = None) -> int:
    """Start, show, prune or stop a registry."""
    given = parser().parse_args(arguments)
    return command.run("registry", lambda: _work(given))


def _work(given: argparse.Namespace) -> None:
    registry = registry_of(given)
    work = {"start": _start, "status": _status, "size": _size, "prune": _prune, "stop": _stop}
    said, line = work[given.action](registry)
    if given.json:
        command.result_json({"address": registry.address, "folder": str(registry.folder), **said})
    else:
        command.result(line)


def registry_of(given: argparse.Namespace) -> Registry:
    """Return the registry that the options mean."""
    name = "registry-mirror" if given.mirror else "registry"
    folder = (given.folder or ROOT / ".nox" / name).resolve()
    usual = MIRROR_PORT if given.mirror else PORT
    return Registry(folder, given.port or server.port_of(folder) or usual, given.mirror)


def _start(registry: Registry) -> tuple[dict[str, Any], str]:
    started = server.start(registry)
    how = "answers now" if started else "answers already"
    return {"started": started}, f"{registry.address} {how}"


def _status(registry: Registry) -> tuple[dict[str, Any], str]:
    if not server.answers(registry):
        raise CiError(
            f"no registry answers at {registry.address}: start it with "
            f"`python -m ci registry start`"
        )
    count = server.size(registry)
    return {"bytes": count}, f"{registry.address} answers, and holds {sizes.shown(count)}"


def _size(registry: Registry) -> tuple[dict[str, Any], str]:
    count = server.size(registry)
    return {"bytes": count}, f"{count} bytes ({sizes.shown(count)})"


def _prune(registry: Registry) -> tuple[dict[str, Any], str]:
    freed = pruning.prune(registry)
    return {"freed_bytes": freed}, f"{sizes.shown(freed)} freed"


def _stop(registry: Registry) -> tuple[dict[str, Any], str]:
    stopped = server.stop(registry)
    return {"stopped": stopped}, "stopped" if stopped else "it did not run"
