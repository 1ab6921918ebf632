"""The front door's OpenAPI 3.1 document: what it promises of each path, as data.

Chat's bodies are vLLM's and OpenAI's to define, and their references are theirs; here they are
objects with their required fields. What is Bentovox's own is written out. A unit test holds this
beside the routes and the schema of the speech role, so that neither drifts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services import __version__

if TYPE_CHECKING:
    from collections.abc import Collection

    Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_NULL: Json = {"type": "null"}
_OBJECT: Json = {"type": "object"}


def _short_text(most: int, least: int = 1) -> Json:
    return {"type": "string", "minLength": least, "maxLength": most}


def _nullable(schema: Json) -> Json:
    return {"anyOf": [schema, _NULL]}


def _closed(properties: Json, *required: str) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": [*required],
        "additionalProperties": False,
    }


def _open(properties: Json, *required: str) -> Json:
    return {"type": "object", "properties": properties, "required": [*required]}


_NAME = _short_text(256)

SPEECH_BODY: Json = _closed(
    {
        "model": _NAME,
        "input": _short_text(4096),
        "voice": {"anyOf": [_NAME, _closed({"id": _NAME}, "id")]},
        "instructions": _nullable({"type": "string", "maxLength": 4096}),
        "response_format": {
            "type": "string",
            "enum": ["mp3", "opus", "aac", "flac", "wav", "pcm"],
            "default": "mp3",
        },
        "speed": {"type": "number", "minimum": 0.25, "maximum": 4.0, "default": 1.0},
        "stream_format": {"type": "string", "enum": ["audio", "sse"], "default": "audio"},
        "language": _nullable(_short_text(64)),
        "seed": _nullable({"type": "integer", "minimum": -(2**63), "exclusiveMaximum": 2**63}),
    },
    "model",
    "input",
    "voice",
)

_SCHEMAS: Json = {
    "Error": _closed(
        {
            "error": _closed(
                {
                    "message": _TEXT,
                    "type": _TEXT,
                    "param": _nullable(_TEXT),
                    "code": _nullable(_TEXT),
                },
                "message",
                "type",
                "param",
                "code",
            )
        },
        "error",
    ),
    "Model": _open({"id": _TEXT, "object": {"const": "model"}}, "id", "object"),
    "ModelList": _open(
        {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
        },
        "object",
        "data",
    ),
    "Voice": _open(
        {
            "id": _TEXT,
            "object": {"const": "voice"},
            "name": _TEXT,
            "languages": {"type": "array", "items": _TEXT},
            "language": _nullable(_TEXT),
            "gender": _nullable(_TEXT),
            "alias_of": _nullable(_TEXT),
        },
        "id",
        "object",
        "name",
    ),
    "VoiceList": _open(
        {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": "#/components/schemas/Voice"}},
            "voices": {"type": "array", "items": _TEXT},
        },
        "object",
        "data",
        "voices",
    ),
    "Health": _open({"status": _TEXT}, "status"),
    "SpeechBody": SPEECH_BODY,
}

_AUDIO_TYPES = ("audio/mpeg", "audio/opus", "audio/aac", "audio/flac", "audio/wav", "audio/pcm")
_ERROR_RESPONSES: Json = {
    status: {
        "description": f"OpenAI's error object, for each status of {status[0]}xx.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    for status in ("4XX", "5XX")
}


def _ref(name: str) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _operation(summary: str, content: Json, **more: Any) -> Json:
    ok = {"description": "The answer.", "content": content}
    return {"summary": summary, "responses": {"200": ok, **_ERROR_RESPONSES}, **more}


def _posted(summary: str, schema: Json, content: Json) -> Json:
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {"post": _operation(summary, content, requestBody=body)}


def _got(summary: str, content: Json, *parameters: str) -> Json:
    where = [{"name": name, "in": "path", "required": True, "schema": _NAME} for name in parameters]
    return {"get": _operation(summary, content, **({"parameters": where} if where else {}))}


_ANY_JSON: Json = {"application/json": {"schema": _OBJECT}}
_ANY_STREAM: Json = {**_ANY_JSON, "text/event-stream": {"schema": _TEXT}}
_MODEL_AND_INPUT = _open({"model": _NAME, "input": {}}, "model", "input")
_MESSAGES: Json = {"type": "array", "items": _OBJECT, "minItems": 1}

PATHS: dict[str, Json] = {
    "chat": {
        "/v1/chat/completions": _posted(
            "Answer a conversation.",
            _open({"model": _NAME, "messages": _MESSAGES}, "messages"),
            _ANY_STREAM,
        ),
        "/v1/completions": _posted(
            "Continue a text.", _open({"model": _NAME, "prompt": {}}, "prompt"), _ANY_STREAM
        ),
        "/v1/responses": _posted(
            "Answer in OpenAI's Responses API.",
            _open({"model": _NAME, "input": {}}, "input"),
            _ANY_STREAM,
        ),
        "/v1/embeddings": _posted("Embed texts.", _MODEL_AND_INPUT, _ANY_JSON),
        "/v1/score": _posted("Score pairs of texts.", _OBJECT, _ANY_JSON),
        "/v1/rerank": _posted("Order documents by a query.", _OBJECT, _ANY_JSON),
        "/tokenize": _posted("Return the tokens of a text.", _OBJECT, _ANY_JSON),
        "/detokenize": _posted("Return the text of tokens.", _OBJECT, _ANY_JSON),
    },
    "speech": {
        "/v1/audio/speech": _posted(
            "Speak a text, as audio or as events with audio in them.",
            {"$ref": "#/components/schemas/SpeechBody"},
            {
                **{kind: {"schema": {}} for kind in _AUDIO_TYPES},
                "text/event-stream": {"schema": _TEXT},
            },
        ),
        "/v1/audio/voices": _got("List the voices.", _ref("VoiceList")),
        "/v1/audio/voices/{voice}": _got("Return one voice.", _ref("Voice"), "voice"),
    },
}
"""The paths of each role behind the front door."""

_EVERYWHERE: Json = {
    "/v1/models": _got("List the models of every role.", _ref("ModelList")),
    "/v1/models/{model}": _got("Return one model.", _ref("Model"), "model"),
}


def _open_to_all(path: Json) -> Json:
    return {"get": {**path["get"], "security": []}}


def _health(summary: str, failing: str) -> Json:
    told = {"description": "Why not.", "content": _ref("Health")}
    operation = _operation(summary, _ref("Health"))
    operation["responses"] = {**operation["responses"], failing: told}
    return _open_to_all({"get": operation})


_ABOUT_ITSELF: Json = {
    "/livez": _health("Tell whether the process lives.", "500"),
    "/readyz": _health("Tell whether requests can be answered.", "503"),
    "/metrics": _open_to_all(_got("Prometheus' metrics.", {"text/plain": {"schema": _TEXT}})),
    "/openapi.json": _open_to_all(_got("This document.", _ANY_JSON)),
}


def document(roles: Collection[str]) -> Json:
    """Return the document of a front door before these roles."""
    paths = {**_EVERYWHERE, **_ABOUT_ITSELF}
    for role in roles:
        paths.update(PATHS.get(role, {}))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Bentovox",
            "version": __version__,
            "description": "Chat and speech on your own machines behind OpenAI's HTTP API.",
        },
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        # Either: a server without keys is open to all.
        "security": [{"key": []}, {}],
    }
