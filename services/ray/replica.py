"""A role as a Ray Serve application: Ray places, counts and restarts replicas, the role serves.

Engines and contract are those of a role elsewhere: a replica serves the same shell. What BentoML's
worker does around it, Ray's replica does here.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

from services.ray.config import deployment_of, prefix_of
from services.server.shell import Shell


class Mounted:
    """A role behind its prefix: Ray routes by it, and leaves it in the path."""

    def __init__(self, shell: Shell, role: str) -> None:
        self._shell = shell
        self._prefix = prefix_of(role)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection's scope.

        Ray cancels what it calls when a client hangs up. vLLM's handlers would leave the engine at
        work then: so the role goes on, sees the hang-up in `receive`, and ends its work itself.
        """
        if scope["type"] == "lifespan":
            await self._shell(scope, receive, send)
            return
        if scope["path"].startswith(f"{self._prefix}/"):
            scope["path"] = scope["path"].removeprefix(self._prefix)
            scope["raw_path"] = scope["raw_path"].removeprefix(self._prefix.encode())
            scope["root_path"] = ""
        serving = asyncio.create_task(self._shell(scope, receive, send))
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            await asyncio.wait([serving])
            raise

    def check_health(self) -> None:
        """Tell Ray, by an error, to replace a replica whose engine has died."""
        readiness = self._shell.app.readiness()
        if readiness.status == "failed":
            raise RuntimeError(str(readiness.detail))


class _Replica:
    """One replica of a role."""

    def __init__(self, role: str) -> None:
        service = getattr(import_module(f"services.{role}.service"), deployment_of(role))
        self._app = Mounted(service.shell(), role)

    def __serve_build_asgi_app__(self) -> Any:
        return self._app

    def check_health(self) -> None:
        self._app.check_health()


def build(args: dict[str, Any]) -> Any:
    """Return the application of the role that `args` names; its options are the Serve config's."""
    from ray import serve

    role = args["role"]
    return serve.deployment(serve.ingress()(_Replica), name=deployment_of(role)).bind(role)
