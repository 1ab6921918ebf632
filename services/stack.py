"""The whole stack for one machine: `bentoml serve services.stack:Stack`.

The gateway with chat, speech, transcription and conversation behind it, each in its own process.
If the settings have URLs for a role (`BENTOVOX_GATEWAY__CHAT`), the gateway uses those, and the one
started here stays idle; so if every role runs elsewhere, serve `services.gateway.service:Gateway`.
"""

from __future__ import annotations

from services.chat.service import Chat
from services.conversation.service import Conversation
from services.gateway import routes
from services.server.role import beside, role
from services.server.serving import RoleApp
from services.settings import settings
from services.speech.service import Speech
from services.transcription.service import Transcription


def build() -> RoleApp:
    """Return the gateway in front of chat, speech, transcription and conversation."""
    gateway = settings().gateway
    backends = {name: urls or beside(name) for name, urls in gateway.backends.items()}
    return routes.build(gateway, backends)


Stack = role(
    "bentovox",
    build,
    routes.who_is_let_in,
    chat=Chat,
    speech=Speech,
    transcription=Transcription,
    conversation=Conversation,
)
