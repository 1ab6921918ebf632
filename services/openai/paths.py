"""Every path of every role: its methods, bodies and answers.

This is the one table. Roles take their paths from it, the gateway forwards what is in it, and
`services.openai.openapi` makes the document of it. Chat's bodies are defined by vLLM; here they
have only their required fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final, NotRequired

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from services.audio.formats import MEDIA_TYPES
from services.openai import conversation, models, speech, transcription, translation
from services.openai.answers import EVENT_STREAM

JSON: Final = "application/json"
FORM: Final = "multipart/form-data"


@dataclass(frozen=True)
class Operation:
    """One method of a path; what it reads and answers is a type, as JSON, or one a media type."""

    at: str  # the method and the path
    summary: str
    answers: Any
    reads: Any = None
    files: tuple[str, ...] = ()  # of a form; the first is required
    query: type[BaseModel] | None = None
    keyless: bool = False
    failing: str = ""  # the status, with the same body, if the role cannot work


class _ChatBody(TypedDict):
    model: NotRequired[speech.Id]
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]


class _CompletionBody(TypedDict):
    model: NotRequired[speech.Id]
    prompt: Any


class _ResponseBody(TypedDict):
    model: NotRequired[speech.Id]
    input: Any


class _EmbeddingBody(TypedDict):
    model: speech.Id
    input: Any


class Health(TypedDict):
    """The state of a role."""

    status: str


_OBJECT: Final = dict[str, Any]
_STREAMED: Final = {JSON: _OBJECT, EVENT_STREAM: str}
_AUDIO: Final = {**dict.fromkeys(MEDIA_TYPES.values(), Any), EVENT_STREAM: str}
_TRANSCRIPT: Final = {
    **{kind.partition(";")[0]: str for kind in transcription.TEXT_TYPES.values()},
    JSON: transcription.Transcript,
    EVENT_STREAM: str,
}
_IN_ANY_WAY: Final = (JSON, "application/x-www-form-urlencoded", FORM)

CHAT_API: Final = (
    Operation("POST /v1/chat/completions", "Answer a conversation.", _STREAMED, _ChatBody),
    Operation("POST /v1/completions", "Continue a text.", _STREAMED, _CompletionBody),
    Operation("POST /v1/responses", "Answer in OpenAI's Responses API.", _STREAMED, _ResponseBody),
    Operation("POST /v1/embeddings", "Embed texts.", _OBJECT, _EmbeddingBody),
    Operation("POST /v1/score", "Score pairs of texts.", _OBJECT, _OBJECT),
    Operation("POST /v1/rerank", "Order documents by a query.", _OBJECT, _OBJECT),
    Operation("POST /tokenize", "Return the tokens of a text.", _OBJECT, _OBJECT),
    Operation("POST /detokenize", "Return the text of tokens.", _OBJECT, _OBJECT),
)
SPEECH_API: Final = (
    Operation(
        "POST /v1/audio/speech",
        "Speak a text, as audio or as events with audio in them.",
        _AUDIO,
        speech.SpeechBody,
    ),
    Operation(
        "POST /v1/audio/voice-conversion",
        "Say a recording again with a registered voice, or like another recording.",
        _AUDIO,
        {FORM: speech.ConversionFields},
        ("file", "ref_audio"),
    ),
    Operation("GET /v1/audio/models", "List the models that speak.", models.NamedModelList),
    Operation("GET /v1/audio/speech/voices", "List the voices.", speech.VoiceList),
    Operation("GET /v1/audio/voices", "List the voices.", speech.VoiceList),
    Operation(
        "POST /v1/audio/voices",
        "Register a voice.",
        speech.VoiceAnswer,
        {FORM: speech.VoiceFields},
        ("audio_sample",),
    ),
    Operation("GET /v1/audio/voices/{voice}", "Return one voice.", speech.VoiceAnswer),
    Operation("DELETE /v1/audio/voices/{voice}", "Delete a registered voice.", speech.Deleted),
    Operation(
        "GET /v1/audio/voice_consents",
        "List the consents, the oldest first.",
        speech.ConsentList,
        query=speech.ConsentPage,
    ),
    Operation(
        "POST /v1/audio/voice_consents",
        "Keep a recording of a consent, 1 to 60 s.",
        speech.ConsentAnswer,
        {FORM: speech.ConsentFields},
        ("recording",),
    ),
    Operation(
        "GET /v1/audio/voice_consents/{consent}", "Return one consent.", speech.ConsentAnswer
    ),
    Operation(
        "POST /v1/audio/voice_consents/{consent}",
        "Rename a consent.",
        speech.ConsentAnswer,
        speech.ConsentName,
    ),
    Operation(
        "DELETE /v1/audio/voice_consents/{consent}",
        "Delete a consent that no voice has.",
        speech.Deleted,
    ),
)
TRANSCRIPTION_API: Final = (
    Operation(
        "POST /v1/audio/transcriptions",
        "Write down what is said in a recording.",
        _TRANSCRIPT,
        {FORM: transcription.TranscriptionFields},
        ("file",),
    ),
    Operation(
        "POST /v1/audio/translations",
        "Write down in English what is said in a recording.",
        _TRANSCRIPT,
        {FORM: transcription.TranslationFields},
        ("file",),
    ),
)
CONVERSATION_API: Final = (
    Operation(
        "POST /translate",
        "Translate texts, in LibreTranslate's shape.",
        translation.Translated,
        dict.fromkeys(_IN_ANY_WAY, translation.TranslateBody),
    ),
    Operation(
        "POST /detect",
        "Tell the language of a text, in LibreTranslate's shape.",
        Annotated[list[translation.Detection], Field(min_length=1)],
        dict.fromkeys(_IN_ANY_WAY, translation.DetectBody),
    ),
    Operation(
        "GET /languages",
        "List the languages, in LibreTranslate's shape.",
        list[translation.LanguageAnswer],
        keyless=True,
    ),
    Operation(
        "POST /v1/audio/speech-translations",
        "Say in another language what is said in a recording.",
        _AUDIO,
        {FORM: translation.SpeechTranslationFields},
        ("file",),
    ),
)
API: Final = {
    "chat": CHAT_API,
    "speech": SPEECH_API,
    "transcription": TRANSCRIPTION_API,
    "conversation": CONVERSATION_API,
}
"""What the gateway forwards to each role."""

MODELS_API: Final = (
    Operation("GET /v1/models", "List the models of every role.", models.ModelList),
    Operation("GET /v1/models/{model}", "Return one model.", models.ModelCard),
)
"""Served by every role, and by the gateway for all of them."""

REALTIME: Final = "/v1/realtime"
LIVE_TRANSLATION: Final = f"{REALTIME}/translations"
SPEECH_STREAM: Final = "/v1/audio/speech/stream"
CLIENT_SECRETS: Final = "client_secrets"
"""What follows the path of the sessions that a secret opens."""

OPENAPI: Final = "/openapi.json"
OWN_API: Final = (
    Operation("GET /livez", "Whether the process lives.", Health, keyless=True, failing="500"),
    Operation(
        "GET /readyz", "Whether requests can be answered.", Health, keyless=True, failing="503"
    ),
    Operation("GET /metrics", "Prometheus' metrics.", {"text/plain": str}, keyless=True),
    Operation(f"GET {OPENAPI}", "This document.", _OBJECT, keyless=True),
    Operation(
        f"POST {REALTIME}/{CLIENT_SECRETS}",
        "Make a key that opens realtime sessions for some minutes.",
        conversation.ClientSecret,
        conversation.SecretBody,
    ),
    Operation(
        f"POST {LIVE_TRANSLATION}/{CLIENT_SECRETS}",
        "Make a key that opens live translations for some minutes.",
        conversation.ClientSecret,
        conversation.SecretBody,
    ),
)
"""The gateway's own; all but the last three are served by every role's shell."""


def _routes(operations: Iterable[Operation]) -> tuple[tuple[str, str], ...]:
    """Return each method and path, as a template of `services.server.serving`.

    There `{}` matches one segment and `{*}` the rest, since ids of models contain slashes.
    """
    pairs = (operation.at.split(" ") for operation in operations)
    return tuple(
        (method, re.sub(r"\{\w+\}", "{}", path.replace("{model}", "{*}"))) for method, path in pairs
    )


ROUTES: Final = {role: _routes(operations) for role, operations in API.items()}
MODELS: Final = _routes(MODELS_API)
TRANSLATION: Final = frozenset({"/translate", "/detect", "/languages"})
"""LibreTranslate's paths."""

SOCKETS: Final = {
    SPEECH_STREAM: ("speech",),
    REALTIME: ("transcription", "conversation"),
    LIVE_TRANSLATION: ("conversation",),
}
"""The roles that serve each path's WebSockets; where there are two, the query decides."""
