"""A role as a Ray Serve application: Ray places, counts and restarts replicas, the role serves.

Engines and contract are those of a role elsewhere: a replica serves the same shell. What BentoML's
worker does around it, Ray's replica does here.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from ray import serve

from services.ray.config import deployment_of, prefix_of

SERVICES: Final = {
    "chat": "services.chat.service:Chat",
    "speech": "services.speech.service:Speech",
    "transcription": "services.transcription.service:Transcription",
    "conversation": "services.conversation.service:Conversation",
}


class _Unprefixed:
    """A role behind its prefix: Ray routes by it, and leaves it in the path."""

    def __init__(self, app: Any, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan" and scope["path"].startswith(f"{self._prefix}/"):
            scope["path"] = scope["path"].removeprefix(self._prefix)
            scope["raw_path"] = scope["raw_path"].removeprefix(self._prefix.encode())
            scope["root_path"] = ""
        await self._app(scope, receive, send)


class _Replica:
    """One replica of a role. Ray asks it for its application, and now and then for its health."""

    def __init__(self, role: str) -> None:
        module, _, name = SERVICES[role].partition(":")
        self._shell = getattr(import_module(module), name).shell()
        self._app = _Unprefixed(self._shell, prefix_of(role))

    def __serve_build_asgi_app__(self) -> Any:
        return self._app

    def check_health(self) -> None:
        """Tell Ray to replace a replica whose engine has died.

        Raises:
            RuntimeError: it has.
        """
        readiness = self._shell.app.readiness()
        if readiness.status == "failed":
            raise RuntimeError(str(readiness.detail))


def build(args: dict[str, Any]) -> Any:
    """Return the application of the role that `args` names; its options are the Serve config's."""
    role = args["role"]
    return serve.deployment(serve.ingress()(_Replica), name=deployment_of(role)).bind(role)
