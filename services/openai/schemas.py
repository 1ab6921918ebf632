"""The schemas of answers in the OpenAPI document, as data: they are written, and never read."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

TEXT: Json = {"type": "string"}
NULL: Json = {"type": "null"}
OBJECT: Json = {"type": "object"}


def _nullable(schema: Json) -> Json:
    return {"anyOf": [schema, NULL]}


def _closed(properties: Json, *required: str) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": [*required],
        "additionalProperties": False,
    }


def open_object(properties: Json, *required: str) -> Json:
    """Return the schema of an object with these properties that may have others too."""
    return {"type": "object", "properties": properties, "required": [*required]}


def _deleted(kind: str) -> Json:
    fields: Json = {"id": TEXT, "object": {"const": kind}, "deleted": {"const": True}}
    return open_object(fields, *fields)


NAME: Json = {"type": "string", "minLength": 1, "maxLength": 256}

_NAMED: Json = {"type": "array", "items": open_object({"id": TEXT, "name": TEXT}, "id", "name")}


def _one_or_many(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "array", "items": schema}]}


_DETECTED: Json = open_object(
    {"confidence": {"type": "number", "minimum": 0, "maximum": 100}, "language": TEXT},
    "confidence",
    "language",
)

SCHEMAS: Json = {
    "Error": _closed(
        {
            "error": _closed(
                {
                    "message": TEXT,
                    "type": TEXT,
                    "param": _nullable(TEXT),
                    "code": _nullable(TEXT),
                },
                "message",
                "type",
                "param",
                "code",
            )
        },
        "error",
    ),
    "Model": open_object({"id": TEXT, "object": {"const": "model"}}, "id", "object"),
    "ModelList": open_object(
        {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
        },
        "object",
        "data",
    ),
    "SpeechModelList": open_object(
        {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
            "models": _NAMED,
        },
        "object",
        "data",
        "models",
    ),
    "Voice": open_object(
        {
            "id": TEXT,
            "object": {"enum": ["voice", "audio.voice"]},
            "name": TEXT,
            "created_at": {"type": "integer"},
            "type": {"const": "audio_sample"},
            "consent": TEXT,
            "text": _nullable(TEXT),
            "duration_s": {"type": "number"},
            "languages": {"type": "array", "items": TEXT},
            "language": _nullable(TEXT),
            "gender": _nullable(TEXT),
            "alias_of": _nullable(TEXT),
        },
        "id",
        "object",
        "name",
    ),
    "VoiceList": open_object(
        {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": "#/components/schemas/Voice"}},
            "voices": _NAMED,
            "uploaded_voices": {
                "type": "array",
                "items": {"$ref": "#/components/schemas/Voice"},
            },
        },
        "object",
        "data",
        "voices",
    ),
    "VoiceDeleted": _deleted("audio.voice.deleted"),
    "Consent": open_object(
        {
            "id": TEXT,
            "object": {"const": "audio.voice_consent"},
            "name": TEXT,
            "language": TEXT,
            "created_at": {"type": "integer"},
        },
        "id",
        "object",
        "name",
        "language",
        "created_at",
    ),
    "ConsentList": open_object(
        {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": "#/components/schemas/Consent"}},
            "first_id": _nullable(TEXT),
            "last_id": _nullable(TEXT),
            "has_more": {"type": "boolean"},
        },
        "object",
        "data",
        "has_more",
    ),
    "ConsentDeleted": _deleted("audio.voice_consent"),
    "Transcription": open_object(
        {
            "text": TEXT,
            "usage": OBJECT,
            "logprobs": {"type": "array", "items": OBJECT},
            "task": {"enum": ["transcribe", "translate"]},
            "language": TEXT,
            "duration": {"type": "number"},
            "lost_seconds": {"type": "number"},
            "segments": {"type": "array", "items": OBJECT},
            "words": {"type": "array", "items": OBJECT},
        },
        "text",
        "usage",
    ),
    "Health": open_object({"status": TEXT}, "status"),
    "Translated": open_object(
        {
            "translatedText": _one_or_many(TEXT),
            "detectedLanguage": _one_or_many(_DETECTED),
            "alternatives": {"type": "array", "items": _one_or_many(TEXT)},
        },
        "translatedText",
    ),
    "Detected": {"type": "array", "items": _DETECTED, "minItems": 1},
    "Languages": {
        "type": "array",
        "items": open_object(
            {"code": TEXT, "name": TEXT, "targets": {"type": "array", "items": TEXT}},
            "code",
            "name",
            "targets",
        ),
    },
}
