"""The whole stack for one machine: `bentoml serve services.stack:Stack`.

The gateway with chat, speech, transcription and conversation behind it, each in its own process.
If the settings have URLs for a role (`BENTOVOX_GATEWAY__CHAT`), the gateway uses those, and the one
started here stays idle; so if every role runs elsewhere, serve `services.gateway.service:Gateway`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import bentoml

from services.chat.service import Chat
from services.conversation.service import Conversation
from services.gateway import routes
from services.gateway.keys import Keys
from services.server.role import beside, preflight, role
from services.settings import settings
from services.speech.service import Speech
from services.transcription.service import Transcription

if TYPE_CHECKING:
    from services.server.serving import RoleApp


class _Stack:
    """Chat, speech, transcription and translation behind one OpenAI-compatible server."""

    chat = bentoml.depends(Chat)
    speech = bentoml.depends(Speech)
    transcription = bentoml.depends(Transcription)
    conversation = bentoml.depends(Conversation)

    @staticmethod
    def build() -> RoleApp:
        gateway = settings().gateway
        return routes.build(
            gateway, {role: urls or beside(role) for role, urls in gateway.backends.items()}
        )

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        preflight(lambda: Keys.from_settings(settings().gateway).summary())


Stack = role(_Stack, name="bentovox")
