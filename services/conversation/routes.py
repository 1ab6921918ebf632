"""The conversation role's application: its paths depend on the roles that it can call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from starlette.types import ASGIApp

from services.backends.pools import Pools
from services.conversation.live.socket import realtime_conversations
from services.conversation.live.translation import live_translations
from services.conversation.speech_translation.routes import SpeechTranslation
from services.conversation.translation.routes import Translation
from services.openai.answers import document, of_models
from services.openai.paths import LIVE_TRANSLATION, REALTIME
from services.server.admission import Admission, Limits
from services.server.serving import Readiness, RoleApp
from services.settings.sections import ConversationSettings

_SPEECH: Final = "/v1/audio/speech-translations"
_ALONE: Final = Readiness(
    "unavailable",
    {
        "backends": "no backends: set BENTOVOX_CONVERSATION__CHAT, BENTOVOX_CONVERSATION__SPEECH "
        'and BENTOVOX_CONVERSATION__TRANSCRIPTION to lists of URLs such as ["http://chat:3000"], '
        "or serve services.stack:Stack"
    },
)


def build(conversation: ConversationSettings, urls: Mapping[str, Sequence[str]]) -> RoleApp:
    """Return the role's application, given the URLs of the backends of each role."""
    pools = Pools(urls, conversation)
    handlers = of_models(dict)  # it uses the models of other roles
    if "chat" in pools.by_role:
        texts = Translation(pools, conversation.translation)
        handlers |= {
            ("POST", "/translate"): document(texts.translate),
            ("POST", "/detect"): document(texts.detect),
            ("GET", "/languages"): document(lambda _: texts.languages),
        }
    sockets: dict[str, ASGIApp] = {}
    if {"chat", "speech", "transcription"} <= pools.by_role.keys():
        realtime, translates = conversation.realtime, conversation.translation.model or None
        live = Admission(Limits(realtime.sessions, 0, conversation.deadline_s))
        sockets[REALTIME] = realtime_conversations(pools, realtime, live)
        sockets[LIVE_TRANSLATION] = live_translations(pools, translates, live)
        handlers["POST", _SPEECH] = SpeechTranslation(pools, conversation)
    return RoleApp(
        role="conversation",
        handlers=handlers,
        sockets=sockets,
        slotless=frozenset({_SPEECH}),  # it has slots of its own
        limits=Limits(conversation.slots, conversation.queue, conversation.deadline_s),
        body_limit_bytes=conversation.body_limit_bytes,
        body_memory_bytes=conversation.body_memory_bytes,
        readiness=lambda: Readiness(*pools.status()) if pools.by_role else _ALONE,
        lifespan=pools.probing,
    )
