"""The conversation role's application: which paths there are, given whom it may ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.backends.pools import Pools
from services.conversation.speech_translation.routes import SpeechTranslation
from services.conversation.translation.routes import TranslationRoutes
from services.errors import no_such_model
from services.openai.documents import send_json
from services.openai.paths import MODELS, SPEECH_TRANSLATION, TRANSLATION
from services.server.admission import Limits
from services.server.serving import Readiness, RoleApp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.types import Receive, Scope, Send

    from services.server.serving import Asgi
    from services.settings.sections import ConversationSettings

_ALONE: Final = Readiness(
    "unavailable",
    {
        "backends": "nobody to ask: set BENTOVOX_CONVERSATION__CHAT, BENTOVOX_CONVERSATION__SPEECH "
        'and BENTOVOX_CONVERSATION__TRANSCRIPTION to lists of URLs such as ["http://chat:3000"], '
        "or serve services.stack:Stack"
    },
)


def build(conversation: ConversationSettings, urls: Mapping[str, Sequence[str]]) -> RoleApp:
    """Return the role before the backends at `urls`, by role."""
    pools = Pools(urls, conversation)
    apps: dict[str, Asgi] = dict.fromkeys(MODELS, _no_models)
    paths = {**MODELS}
    if "chat" in pools.by_role:
        texts = TranslationRoutes(pools, conversation.translation)
        apps |= dict.fromkeys(TRANSLATION, texts)
        paths |= TRANSLATION
    if {"chat", "speech", "transcription"} <= pools.by_role.keys():
        apps |= dict.fromkeys(SPEECH_TRANSLATION, SpeechTranslation(pools, conversation))
        paths |= SPEECH_TRANSLATION

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        await apps[scope["bentovox.route"]](scope, receive, send)

    return RoleApp(
        role="conversation",
        asgi=asgi,
        paths=paths,
        admitted=frozenset(TRANSLATION),
        limits=Limits(conversation.slots, conversation.queue, conversation.deadline_s),
        body_limit_bytes=conversation.body_limit_bytes,
        body_memory_bytes=conversation.body_memory_bytes,
        readiness=lambda: Readiness(*pools.status()) if pools.by_role else _ALONE,
        lifespan=pools.probing,
    )


async def _no_models(scope: Scope, _: Receive, send: Send) -> None:
    """Answer /v1/models: the models that it uses are those of other roles."""
    if scope["path"] != "/v1/models":
        raise no_such_model(scope["path"].removeprefix("/v1/models/"))
    await send_json(send, {"object": "list", "data": []})
