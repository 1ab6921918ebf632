"""A role as a BentoML service whose HTTP is wholly ours.

BentoML gives processes, workers, GPUs, dependencies, start and stop hooks, building and packing.
Its own HTTP layers are left out: its timeout answers in another shape and leaves a timer behind for
each request, its limits do not reach mounted applications, and its tracing costs 1.5 ms a stream
(docs/decisions/0002). `to_asgi` is the one place where it asks for the application.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import sys
from typing import TYPE_CHECKING, Any

from _bentoml_sdk import Service
from _bentoml_sdk.images import Image
from bentoml._internal.configuration.containers import BentoMLContainer

from services import processes, settings
from services.errors import ConfigurationError
from services.server import logging, uvicorn_http
from services.server.shell import Shell

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.server.serving import Asgi, RoleApp

_FILES = 65_536


class Role(Service):  # type: ignore[misc]  # bentoml ships no types that mypy is shown
    """A BentoML service that is served by a `Shell` around its `inner.build()`.

    `inner` is a class with a static method `build() -> RoleApp`, called in the worker process.
    """

    def to_asgi(self, is_main: bool = True) -> Asgi:  # noqa: FBT001, FBT002  BentoML's signature
        """Return the application that this worker process serves."""
        processes.end_with_parent()  # so that no worker is left when its supervisor dies
        _allow_many_files()
        chosen = settings.settings()
        uvicorn_http.install(chosen.drain_s)
        log = chosen.log
        logging.configure(self.name, level=log.level, access=log.access and is_main)
        build: Callable[[], RoleApp] = self.inner.build
        app = build()
        bento = super().to_asgi(is_main=is_main)
        shell = Shell(app, bento, strict=chosen.strict, hosts=chosen.hosts)
        return app.outer(shell) if app.outer else shell


def role(inner: type[Any], *, name: str, **config: Any) -> Role:
    """Return the role's service; `config` is what `@bentoml.service` takes."""
    # Without a distribution's name BentoML installs no compiler; a bentofile names the base image.
    image = Image(base_image="scratch", distro="none")
    # One worker: admission and engine state belong to one process. Scale with containers.
    return Role(name=name, inner=inner, image=image, config={"workers": 1, **config})


def beside(name: str) -> list[str]:
    """Return the URL of a service that the same supervisor serves; none if it serves none such."""
    url = BentoMLContainer.remote_runner_mapping.get().get(name)
    return [url.replace("tcp://", "http://")] if url else []


def preflight(*checks: Callable[[], str]) -> None:
    """Run a role's checks before any process starts; print what each says was chosen.

    Ends with one line and an exit code that is not 0 if one fails.

    For `@bentoml.on_deployment`: a worker that fails at start would be started again for ever.
    """
    try:
        settings.settings()
        _check_port()
        for check in checks:
            sys.stderr.write(f"bentovox: {check()}\n")
    except ConfigurationError as error:
        sys.exit(f"bentovox: {error.message}")


def _allow_many_files() -> None:
    """Take as many files as the process may: each connection is one, and shells give 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if most == resource.RLIM_INFINITY else min(_FILES, most)
    if wanted > resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _check_port() -> None:
    port = _option("--port", "-p") or os.environ.get("BENTOML_PORT") or "3000"
    host = _option("--host") or os.environ.get("BENTOML_HOST") or "0.0.0.0"  # noqa: S104  BentoML's
    if not port.isdigit() or "serve" not in sys.argv:
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                raise ConfigurationError(
                    f"port {port} on {host} is taken; stop what listens there or choose another "
                    "with --port."
                ) from exc
            raise ConfigurationError(f"cannot listen on {host}:{port}: {exc.strerror}.") from exc


def _option(*names: str) -> str | None:
    for index, argument in enumerate(sys.argv):
        if argument in names and index + 1 < len(sys.argv):
            return sys.argv[index + 1]
        for name in names:
            if argument.startswith(name + "="):
                return argument.partition("=")[2]
    return None
