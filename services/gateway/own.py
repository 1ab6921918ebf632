"""What the gateway answers itself, by asking backends: translation of texts and of speech."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.gateway.interpreter.routes import SpeechTranslationRoutes
from services.gateway.keys import credentials
from services.gateway.translation.routes import TranslationRoutes
from services.openai.paths import SPEECH_TRANSLATION, TRANSLATION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.gateway.backends import Pools
    from services.gateway.keys import Keys
    from services.server.serving import Asgi


@dataclass(frozen=True)
class Own:
    """Paths of the gateway itself.

    Attributes:
        paths: with their methods.
        apps: the application of each.
        admitted: those that take one of the gateway's slots.
    """

    paths: Mapping[str, frozenset[str]]
    apps: Mapping[str, Asgi]
    admitted: frozenset[str]

    def checks(self, scope: Any) -> bool:
        """Return whether the application looks for the key itself, as it may be in the body."""
        return scope["path"] in TRANSLATION and not credentials(scope)


def own_paths(pools: Pools, keys: Keys) -> Own:
    """Return the paths that the roles behind the door are enough for."""
    paths: dict[str, frozenset[str]] = {}
    apps: dict[str, Asgi] = {}
    if "chat" in pools.by_role:
        paths.update(TRANSLATION)
        apps.update(dict.fromkeys(TRANSLATION, TranslationRoutes(pools, keys)))
    if all(role in pools.by_role for role in ("chat", "speech", "transcription")):
        paths.update(SPEECH_TRANSLATION)
        apps.update(dict.fromkeys(SPEECH_TRANSLATION, SpeechTranslationRoutes(pools)))
    return Own(paths, apps, frozenset(SPEECH_TRANSLATION))
