"""The speech role's paths: speech, conversion, voices, consents, models.

A handler raises `ServiceError` for what it refuses, and the shell turns that into HTTP. A request
is validated before the first byte, and the first frame is made before the headers are sent; a
failure after that breaks the connection off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.openai.answers import document, of_models
from services.speech.audio_routes import AudioRoutes
from services.speech.consent_routes import ConsentRoutes
from services.speech.voice_routes import VoiceRoutes

if TYPE_CHECKING:
    from services.audio.formats import OnAudioSeconds
    from services.openai.answers import Handlers
    from services.openai.models import Models
    from services.speech.speakers import Speakers


def handlers_of(speakers: Speakers, models: Models, on_audio_seconds: OnAudioSeconds) -> Handlers:
    """Return the table of the role's paths; the caller starts and closes the speakers' engine.

    Args:
        speakers: the voices, and the engine.
        models: the model names to accept.
        on_audio_seconds: called once for each request that made audio, with its duration in
            seconds and its format, even if the client hung up.
    """
    audio = AudioRoutes(speakers, models, on_audio_seconds)
    voices, consents = VoiceRoutes(speakers), ConsentRoutes(speakers.store)
    voice, consent = "/v1/audio/voices/{}", "/v1/audio/voice_consents/{}"
    return {
        **of_models(models.cards, models.missing),
        ("POST", "/v1/audio/speech"): audio.speak,
        ("POST", "/v1/audio/voice-conversion"): audio.convert,
        ("GET", "/v1/audio/models"): document(lambda _: models.named()),
        ("GET", "/v1/audio/voices"): document(voices.listed),
        ("GET", "/v1/audio/speech/voices"): document(voices.listed),
        ("POST", "/v1/audio/voices"): document(voices.added),
        ("GET", voice): document(voices.one),
        ("DELETE", voice): document(voices.deleted),
        ("GET", "/v1/audio/voice_consents"): document(consents.listed),
        ("POST", "/v1/audio/voice_consents"): document(consents.added),
        ("GET", consent): document(consents.one),
        ("POST", consent): document(consents.renamed),
        ("DELETE", consent): document(consents.deleted),
    }
