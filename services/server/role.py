"""A role as a BentoML service whose HTTP is entirely ours.

BentoML provides processes, workers, GPUs, dependencies, hooks and packaging. Its HTTP layers are
left out: they answer in another shape and cost 1.5 ms per stream (docs/decisions/0002).
"""

from __future__ import annotations

import functools
import os
import resource
import socket
import sys
from collections.abc import Callable
from typing import Any

import bentoml
import click
import psutil
from _bentoml_sdk import Service
from _bentoml_sdk.images import Image
from bentoml._internal.configuration.containers import BentoMLContainer
from starlette.applications import Starlette
from starlette.types import ASGIApp

from services import processes, settings
from services.errors import ConfigurationError
from services.server import telemetry, uvicorn_http
from services.server.serving import RoleApp
from services.server.shell import Shell

_FILES = 65_536


class Role(Service):  # type: ignore[misc]  # bentoml ships no types that mypy is shown
    """A BentoML service, served by a `Shell` around its `inner.build()`; see `role`."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:  # noqa: FBT001, FBT002  BentoML's signature
        """Return the application that this worker process serves."""
        processes.end_with_parent()  # so that no worker outlives its supervisor
        _close_others_ports()
        shell = self.shell(super().to_asgi(is_main=is_main), access=is_main)
        return shell.app.callers.around(shell)

    def shell(self, bento: Starlette | None = None, *, access: bool = True, **parts: Any) -> Shell:
        """Return the role in its shell, in a process that is prepared for it.

        `bento` is BentoML's own application, where BentoML serves; `access` logs a line for each
        request; `parts` are what the role's `build` takes.
        """
        _allow_many_files()
        chosen = settings.settings()
        uvicorn_http.install(chosen.drain_s)
        log = chosen.log
        telemetry.configure_log(self.name, level=log.level, access=log.access and access)
        build: Callable[..., RoleApp] = self.inner.build
        return Shell(build(**parts), bento, strict=chosen.strict, hosts=chosen.hosts)


def role(
    name: str, build: Callable[..., RoleApp], *checks: Callable[[], str], **others: Role
) -> Role:
    """Return a role's service, whose worker process calls `build`.

    `checks` are run by `preflight`; `others` are started beside it.
    """
    members: dict[str, Any] = {key: bentoml.depends(other) for key, other in others.items()}
    members["build"] = staticmethod(build)
    members["check"] = bentoml.on_deployment(functools.partial(preflight, *checks))
    inner = type(name, (), {"__doc__": build.__doc__, **members})
    # With no distribution, BentoML installs no compiler; a bentofile names the base image.
    image = Image(base_image="scratch", distro="none")
    # One worker: admission and engine state belong to one process. Scale with containers.
    return Role(name=name, inner=inner, image=image, config={"workers": 1})


def beside(name: str) -> list[str]:
    """Return the URL of a service under the same supervisor; an empty list if there is none."""
    url = BentoMLContainer.remote_runner_mapping.get().get(name)
    return [url.replace("tcp://", "http://")] if url else []


def preflight(*checks: Callable[[], str]) -> None:
    """Run a role's checks before any process starts; print what each reports as chosen.

    If one fails, exit with one line and a non-zero code: a worker would be restarted for ever.
    """
    try:
        settings.settings()
        _check_port()
        _refuse_at_the_end()
        for check in checks:
            sys.stderr.write(f"bentovox: {check()}\n")
    except ConfigurationError as error:
        sys.exit(f"bentovox: {error.message}")


def _allow_many_files() -> None:
    """Raise the limit on open files: each connection is one, and shells allow only 1024."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if most == resource.RLIM_INFINITY else min(_FILES, most)
    if wanted > now:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _check_port() -> None:
    """Check that `bentoml serve`, if that is what runs, can listen where it was told to."""
    command = click.get_current_context(silent=True)
    if command is None or "port" not in command.params:
        return
    port: int = command.params["port"] or BentoMLContainer.http.port.get()
    host: str = command.params["host"] or BentoMLContainer.http.host.get()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            raise ConfigurationError(
                f"cannot listen on {host}:{port}: {exc.strerror}; set another --port or --host."
            ) from exc


@functools.cache
def _refuse_at_the_end() -> None:
    """Have BentoML's supervisor close its listening sockets once it is told to end.

    It would hold them until the last worker has ended, and clients would wait on connections that
    nobody reads instead of asking elsewhere.
    """
    from bentoml._internal.utils.circus import Arbiter  # noqa: PLC0415  no worker needs it

    stop = Arbiter.stop

    def let_go(supervisor: Any) -> Any:
        supervisor.sockets.close_all()
        return stop(supervisor)

    Arbiter.stop = let_go


def _close_others_ports() -> None:
    """Close the ports of the other services, which a worker of BentoML's inherits with its own."""
    if "--fd" in sys.argv:
        own = int(sys.argv[sys.argv.index("--fd") + 1])
        for one in psutil.Process().net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.fd != own:
                os.close(one.fd)
