"""A role as a Ray Serve application: Ray places, counts and restarts replicas, the role serves.

Engines and contract are those of a role elsewhere: a replica serves the same shell. What BentoML's
worker does around it, Ray's replica does here.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from ray import serve

from services.ray.config import deployment_of
from services.ray.mounted import Mounted

_SERVICES: Final = {
    "speech": "services.speech.service:Speech",
    "transcription": "services.transcription.service:Transcription",
    "conversation": "services.conversation.service:Conversation",
}


class _Replica:
    """One replica of a role."""

    def __init__(self, role: str) -> None:
        module, _, name = _SERVICES[role].partition(":")
        self._app = Mounted(getattr(import_module(module), name).shell(), role)

    def __serve_build_asgi_app__(self) -> Any:
        return self._app

    def check_health(self) -> None:
        self._app.check_health()


def build(args: dict[str, Any]) -> Any:
    """Return the application of the role that `args` names; its options are the Serve config's."""
    role = args["role"]
    if role == "chat":
        from services.ray.chat import build_chat  # imports vLLM

        return build_chat(args)
    return serve.deployment(serve.ingress()(_Replica), name=deployment_of(role)).bind(role)
