"""The OpenAPI document's schemas of translation, of texts and of speech."""

from __future__ import annotations

from services.openai.schemas import FORMS, NAME, TEXT, Json, open_object


def _closed(properties: Json, *required: str) -> Json:
    return {**open_object(properties, *required), "additionalProperties": False}


def _one_or_many(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "array", "items": schema}]}


_CODE: Json = {"type": "string", "minLength": 1, "maxLength": 32}
_KEY: Json = {"type": "string", "maxLength": 256, "default": ""}
_CODES: Json = {"type": "array", "items": TEXT}
_SPOKEN = FORMS["ConversionForm"]["properties"]
_DETECTED: Json = open_object(
    {"confidence": {"type": "number", "minimum": 0, "maximum": 100}, "language": TEXT},
    "confidence",
    "language",
)

TRANSLATION_SCHEMAS: dict[str, Json] = {
    "TranslateBody": _closed(
        {
            "api_key": _KEY,
            "q": _one_or_many(TEXT),
            "source": _CODE,
            "target": _CODE,
            "format": {"type": "string", "enum": ["text", "html"], "default": "text"},
            "alternatives": {"type": "integer", "minimum": 0, "maximum": 10, "default": 0},
        },
        "q",
        "source",
        "target",
    ),
    "Translated": open_object(
        {
            "translatedText": _one_or_many(TEXT),
            "detectedLanguage": _one_or_many(_DETECTED),
            "alternatives": {"type": "array", "items": _one_or_many(TEXT)},
        },
        "translatedText",
    ),
    "DetectBody": _closed({"api_key": _KEY, "q": TEXT}, "q"),
    "Detected": {"type": "array", "items": _DETECTED, "minItems": 1},
    "Languages": {
        "type": "array",
        "items": open_object(
            {"code": TEXT, "name": TEXT, "targets": _CODES}, "code", "name", "targets"
        ),
    },
    "SpeechTranslationForm": _closed(
        {
            "file": _SPOKEN["file"],
            "language": _CODE,
            "source_language": _CODE,
            "model": NAME,
            "chat_model": NAME,
            "speech_model": NAME,
            "prompt": {"type": "string", "maxLength": 4096, "default": ""},
            "voice": NAME,
            "consent": NAME,
            "instructions": {"type": "string", "maxLength": 4096},
            "speed": {"type": "number", "minimum": 0.25, "maximum": 4.0},
            "response_format": _SPOKEN["response_format"],
            "stream_format": _SPOKEN["stream_format"],
        },
        "file",
        "language",
    ),
}
"""By name; a unit test holds them beside what is read."""
