"""The chat role's service: `bentoml serve services.chat.service:Chat`."""

from __future__ import annotations

from typing import Any

from services.chat.arguments import resolve, runs_code, sleeps_after_s
from services.chat.engine import VllmServer
from services.openai.answers import of_models
from services.openai.paths import ROUTES
from services.server.admission import Limits
from services.server.idle import Unloading
from services.server.role import role
from services.server.serving import RoleApp
from services.settings import provenance, settings


def _chosen() -> str:
    chat = settings().chat
    name = resolve(chat).name
    runs = "; it runs code that the model brings along" if runs_code(chat) else ""
    return f"chat is vLLM with {name} ({provenance('chat.model')}){runs}"


def build(started: Any = None) -> RoleApp:
    """Return large language models behind OpenAI's API, with vLLM."""
    chat = settings().chat
    server = VllmServer(chat, started)
    # vLLM's others stay closed: adapters, profiling, sleep, `/invocations` without a key.
    handlers = of_models(server.models)
    handlers |= dict.fromkeys(ROUTES["chat"], server)
    return RoleApp(
        role="chat",
        handlers=handlers,
        limits=Limits(chat.slots, chat.queue, chat.deadline_s),
        body_limit_bytes=chat.body_limit_bytes,
        body_memory_bytes=chat.body_memory_bytes,
        readiness=server.readiness,
        lifespan=server.lifespan,
        unloading=Unloading(server, sleeps_after_s(chat)),
    )


Chat = role("chat", build, _chosen)
