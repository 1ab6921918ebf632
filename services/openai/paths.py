"""The paths of each role with their methods: what a role serves and the gateway lets through.

A template's `{}` stands for one segment, `{*}` for the rest, since ids of models hold slashes.
"""

from __future__ import annotations

POST = frozenset({"POST"})
GET = frozenset({"GET", "HEAD"})
DELETE = frozenset({"DELETE"})

MODELS = {"/v1/models": GET, "/v1/models/{*}": GET}
"""Served by every role, and by the gateway for all of them."""

CHAT = {
    "/v1/chat/completions": POST,
    "/v1/completions": POST,
    "/v1/responses": POST,
    "/v1/embeddings": POST,
    "/v1/score": POST,
    "/v1/rerank": POST,
    "/tokenize": POST,
    "/detokenize": POST,
}

SPEECH = {
    "/v1/audio/speech": POST,
    "/v1/audio/voice-conversion": POST,
    "/v1/audio/models": GET,
    "/v1/audio/speech/voices": GET,
    "/v1/audio/voices": GET | POST,
    "/v1/audio/voices/{}": GET | DELETE,
    "/v1/audio/voice_consents": GET | POST,
    "/v1/audio/voice_consents/{}": GET | POST | DELETE,
}

TRANSCRIPTION = {"/v1/audio/transcriptions": POST, "/v1/audio/translations": POST}

TRANSLATION = {"/translate": POST, "/detect": POST, "/languages": GET}
"""LibreTranslate's."""

SPEECH_TRANSLATION = {"/v1/audio/speech-translations": POST}

CONVERSATION = {**TRANSLATION, **SPEECH_TRANSLATION}
