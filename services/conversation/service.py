"""The conversation role: `bentoml serve services.conversation.service:Conversation`."""

from __future__ import annotations

from services.backends.sources import source_of
from services.conversation import routes
from services.server.role import beside, role
from services.server.serving import RoleApp
from services.settings import settings


def _urls() -> dict[str, list[str]]:
    """Return the URLs of each role: from its settings, the gateway's, or the same stack."""
    gateway = settings().gateway.backends
    return {
        name: urls or gateway[name] or beside(name)
        for name, urls in settings().conversation.backends.items()
    }


def _check() -> str:
    urls = [url for given in _urls().values() for url in given]
    for url in urls:
        source_of(url)
    return f"conversation calls {', '.join(urls) or 'the roles of the same stack'}"


def build() -> RoleApp:
    """Return translation and live conversation with chat, speech and transcription."""
    return routes.build(settings().conversation, _urls())


Conversation = role("conversation", build, _check)
