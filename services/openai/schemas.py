"""The schemas of the OpenAPI document: every body and answer that is Bentovox's own, as data."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

TEXT: Json = {"type": "string"}
NULL: Json = {"type": "null"}
OBJECT: Json = {"type": "object"}


def _short_text(most: int, least: int = 1) -> Json:
    return {"type": "string", "minLength": least, "maxLength": most}


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


def _milliseconds(usual: int) -> Json:
    return {"type": "integer", "minimum": 0, "maximum": 10_000, "default": usual}


NAME = _short_text(256)

_SPEED: Json = {"type": "number", "minimum": 0.25, "maximum": 4.0, "default": 1.0}
_SEED: Json = {"type": "integer", "minimum": -(2**63), "exclusiveMaximum": 2**63}
_FORMAT: Json = {
    "type": "string",
    "enum": ["mp3", "opus", "aac", "flac", "wav", "pcm", "ulaw", "alaw"],
    "default": "mp3",
}
_RATE: Json = {"type": "integer", "enum": [8000, 16000, 22050, 24000, 44100, 48000]}
_STREAM_FORMAT: Json = {"type": "string", "enum": ["audio", "sse"], "default": "audio"}
_STREAM: Json = {"type": "boolean", "default": True}
_TRANSCRIPT: Json = {"type": "string", "maxLength": 1024}
_LABEL: Json = {**NAME, "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"}
_TAG: Json = {
    "type": "string",
    "maxLength": 64,
    "pattern": r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$",
}
_FILE: Json = {"type": "string", "contentMediaType": "application/octet-stream"}
_HEARING: Json = {
    "file": _FILE,
    "model": NAME,
    "prompt": {"type": "string", "maxLength": 4096, "default": ""},
    "response_format": {
        "type": "string",
        "enum": ["json", "text", "srt", "verbose_json", "vtt"],
        "default": "json",
    },
    "temperature": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.0},
    "stream": {"type": "boolean", "default": False},
    "vad_filter": {"type": "boolean", "default": True},
}
_SPOKEN: Json = {"type": "string", "maxLength": 64}


_NAMED: Json = {"type": "array", "items": open_object({"id": TEXT, "name": TEXT}, "id", "name")}


def _list(items: Json, **more: Any) -> Json:
    return {"type": "array", "items": items, "default": [], **more}


SPEECH_BODY: Json = _closed(
    {
        "model": NAME,
        "input": _short_text(4096),
        "voice": {"anyOf": [NAME, _closed({"id": NAME}, "id"), NULL]},
        "instructions": _nullable({"type": "string", "maxLength": 4096}),
        "response_format": _FORMAT,
        "sample_rate": _nullable(_RATE),
        "speed": _SPEED,
        "stream_format": _STREAM_FORMAT,
        "stream": _STREAM,
        "language": _nullable(_short_text(64)),
        "seed": _nullable(_SEED),
        "ref_audio": _nullable(_short_text(14 * 1024 * 1024)),
        "ref_text": _nullable(_TRANSCRIPT),
        "consent": _nullable(NAME),
    },
    "model",
    "input",
)

FORMS: dict[str, Json] = {
    "ConversionForm": _closed(
        {
            "file": _FILE,
            "model": NAME,
            "voice": NAME,
            "ref_audio": _FILE,
            "consent": NAME,
            "response_format": _FORMAT,
            "sample_rate": _RATE,
            "speed": _SPEED,
            "seed": _SEED,
            "stream": _STREAM,
            "stream_format": _STREAM_FORMAT,
        },
        "file",
    ),
    "VoiceForm": _closed(
        {
            "audio_sample": _FILE,
            "name": _LABEL,
            "type": {
                "type": "string",
                "enum": ["audio_sample", "prompt"],
                "default": "audio_sample",
            },
            "consent": NAME,
            "text": _TRANSCRIPT,
            "ref_text": _TRANSCRIPT,
            "language": _TAG,
            "prompt": TEXT,
            "model": TEXT,
            "script_hint": TEXT,
        },
        "name",
        "audio_sample",
    ),
    "ConsentForm": _closed(
        {"recording": _FILE, "name": _LABEL, "language": _TAG}, "recording", "name", "language"
    ),
    "TranscriptionForm": _closed(
        {
            **_HEARING,
            "language": _SPOKEN,
            "languages": _list(_SPOKEN, maxItems=16),
            "keywords": _list(_short_text(100), maxItems=100),
            "include": _list({"type": "string", "const": "logprobs"}),
            "timestamp_granularities": _list({"type": "string", "enum": ["word", "segment"]}),
            "chunking_strategy": {
                "anyOf": [
                    {"type": "string", "const": "auto"},
                    _closed(
                        {
                            "type": {"type": "string", "const": "server_vad"},
                            "threshold": {
                                "type": "number",
                                "minimum": 0,
                                "maximum": 1,
                                "default": 0.5,
                            },
                            "prefix_padding_ms": _milliseconds(300),
                            "silence_duration_ms": _milliseconds(200),
                        },
                        "type",
                    ),
                ]
            },
        },
        "file",
        "model",
    ),
    "TranslationForm": _closed(_HEARING, "file", "model"),
}
"""What is sent as multipart/form-data; a test holds these beside the fields that are read."""

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
    "ConsentName": _closed({"name": _LABEL}, "name"),
    **FORMS,
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
    "SpeechBody": SPEECH_BODY,
}
