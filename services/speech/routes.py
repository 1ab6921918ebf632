"""The speech role's paths as one ASGI application: speech, conversion, voices, consents, models.

`build_app` answers on the route that the shell has found (`bentovox.route`). It raises
`ServiceError` for what it refuses, and the shell turns that into HTTP. A request is validated
before the first byte, the first frame is made before the headers leave, and what fails after that
breaks the connection off.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from services.openai.documents import send_json
from services.openai.hangup import ClientGoneError
from services.openai.models import Models
from services.openai.paths import MODELS, SPEECH
from services.settings.sections import SPEECH_MODELS
from services.speech.audio_routes import AudioRoutes
from services.speech.consent_routes import ConsentRoutes
from services.speech.speakers import Speakers
from services.speech.voice_routes import VoiceRoutes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping

    from starlette.types import Receive, Scope, Send

    from services.speech.engines.protocol import SpeechEngine
    from services.speech.stream import OnAudioSeconds

    Handler = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]
    _Answer = Callable[["_Call"], Awaitable[Mapping[str, object]]]

SPEECH_PATH: Final = "/v1/audio/speech"
CONVERSION_PATH: Final = "/v1/audio/voice-conversion"
PATHS: Final = {**SPEECH, **MODELS}
"""What the role serves."""

ADMITTED: Final = frozenset(path for path, methods in SPEECH.items() if "POST" in methods)
"""The paths on which a request may bring much or make the engine work."""


def build_app(
    engine: SpeechEngine,
    *,
    aliases: Collection[str] = SPEECH_MODELS,
    on_audio_seconds: OnAudioSeconds | None = None,
    speakers: Speakers | None = None,
) -> Handler:
    """Return the ASGI application that serves `engine`; starting and closing it is the caller's.

    Args:
        engine: what speaks.
        aliases: model names it answers to beside its own.
        on_audio_seconds: told, once a request that made audio, how many seconds were made and in
            which format, also when the client hung up.
        speakers: who may speak with it; the engine's own voices only, unless more are given.
    """
    return _SpeechApp(
        speakers or Speakers(engine), aliases, on_audio_seconds or (lambda _seconds, _format: None)
    )


@dataclass(frozen=True)
class _Call:
    """A request that is answered with a document; `name` is the last part of its path, if any."""

    name: str
    scope: Scope
    receive: Receive


class _SpeechApp:
    """The paths of one engine."""

    def __init__(
        self, speakers: Speakers, aliases: Collection[str], on_audio_seconds: OnAudioSeconds
    ) -> None:
        models = Models((*speakers.engine.models, *aliases), role="speech")
        self._audio = AudioRoutes(speakers, models.check, on_audio_seconds)
        voices, consents = VoiceRoutes(speakers), ConsentRoutes(speakers.store)
        self._documents: dict[
            tuple[str, str], Callable[[_Call], Awaitable[Mapping[str, object]]]
        ] = {
            ("GET", "/v1/models"): lambda _: _now(models.listed()),
            ("GET", "/v1/models/{*}"): lambda call: _now(models.card(call.name)),
            ("GET", "/v1/audio/models"): lambda _: _now(models.named()),
            ("GET", "/v1/audio/voices"): lambda _: voices.listed(),
            ("GET", "/v1/audio/speech/voices"): lambda _: voices.listed(),
            ("POST", "/v1/audio/voices"): lambda call: voices.added(call.scope, call.receive),
            ("GET", "/v1/audio/voices/{}"): lambda call: voices.one(call.name),
            ("DELETE", "/v1/audio/voices/{}"): lambda call: voices.deleted(call.name),
            ("GET", "/v1/audio/voice_consents"): lambda call: consents.listed(call.scope),
            ("POST", "/v1/audio/voice_consents"): lambda call: consents.added(
                call.scope, call.receive
            ),
            ("GET", "/v1/audio/voice_consents/{}"): lambda call: consents.one(call.name),
            ("POST", "/v1/audio/voice_consents/{}"): lambda call: consents.renamed(
                call.name, call.scope, call.receive
            ),
            ("DELETE", "/v1/audio/voice_consents/{}"): lambda call: consents.deleted(call.name),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, unless its client hangs up before that."""
        template: str = scope["bentovox.route"]
        with suppress(ClientGoneError):
            if template == SPEECH_PATH:
                await self._audio.speak(scope, receive, send)
            elif template == CONVERSION_PATH:
                await self._audio.convert(scope, receive, send)
            else:
                method = "GET" if scope["method"] == "HEAD" else scope["method"]
                name = scope["path"].removeprefix(template.partition("{")[0])
                call = _Call(name, scope, receive)
                await send_json(send, await self._documents[method, template](call))


async def _now(document: Mapping[str, object]) -> Mapping[str, object]:
    return document
