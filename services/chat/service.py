"""The chat role's service: `bentoml serve services.chat.service:Chat`."""

from __future__ import annotations

import bentoml

from services.chat import allowlist, model
from services.chat.engine import VllmServer
from services.role import preflight, role
from services.settings import provenance, settings
from services.shell import RoleApp


def _chosen() -> str:
    chat = settings().chat
    name = model.resolve(chat).name
    trust = "trust_remote_code" if chat.trust_remote_code else ""
    if any(argument.startswith("--trust-remote-code") for argument in chat.args):
        trust = "args"
    runs = f"; it runs code that the model brings along ({provenance(f'chat.{trust}')})"
    return f"chat is vLLM with {name} ({provenance('chat.model')}){runs if trust else ''}"


class _Chat:
    """Large language models behind OpenAI's API, with vLLM."""

    @staticmethod
    def build() -> RoleApp:
        chat = settings().chat
        server = VllmServer(chat)
        return RoleApp(
            role="chat",
            asgi=server,
            paths=allowlist.PATHS,
            admitted=allowlist.GENERATING,
            limits=chat.limits,
            body_limit_bytes=chat.body_limit_bytes,
            body_memory_bytes=chat.body_memory_bytes,
            readiness=server.readiness,
            lifespan=server.lifespan,
        )

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        preflight(_chosen)


Chat = role(_Chat, name="chat")
