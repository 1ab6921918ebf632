"""The gateway's OpenAPI 3.1 document: its paths, with the models that read their bodies.

Chat's bodies are vLLM's and OpenAI's to define, and their references are theirs; here they are
objects with their required fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services import __version__
from services.audio.formats import MEDIA_TYPES
from services.openai.schemas import NAME, OBJECT, SCHEMAS, TEXT, open_object
from services.openai.speech import (
    ConsentFields,
    ConsentName,
    ConsentPage,
    ConversionFields,
    SpeechBody,
    VoiceFields,
)
from services.openai.transcription import TEXT_TYPES, TranscriptionFields, TranslationFields
from services.openai.translation import DetectBody, SpeechTranslationFields, TranslateBody

if TYPE_CHECKING:
    from collections.abc import Collection

    from pydantic import BaseModel

    from services.openai.schemas import Json

_BYTES = "application/octet-stream"
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


def _posted(summary: str, schema: Json, content: Json, *parameters: str) -> Json:
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {"post": _operation(summary, content, requestBody=body, **_where(*parameters))}


def _schema(model: type[BaseModel]) -> Json:
    """Return the schema of a body, whole in itself."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    return _plain(schema, definitions)  # type: ignore[no-any-return]


def _plain(schema: Any, definitions: Json) -> Any:
    """Return a schema without titles, our docstrings, null defaults and references."""
    if isinstance(schema, list):
        return [_plain(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _plain(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {
        key: {name: _plain(one, definitions) for name, one in value.items()}
        if key == "properties"
        else _plain(value, definitions)
        for key, value in schema.items()
        if key not in {"title", "description"} and (key, value) != ("default", None)
    }


def _form(model: type[BaseModel], file: str, *files: str) -> Json:
    """Return the schema of a form: its fields, a file that must be there, and others."""
    schema = _schema(model)
    fields = {name: _not_null(field) for name, field in schema["properties"].items()}
    sent = {name: {"type": "string", "contentMediaType": _BYTES} for name in (file, *files)}
    return {
        **schema,
        "properties": {**sent, **fields},
        "required": [file, *schema.get("required", ())],
    }


def _not_null(field: Json) -> Json:
    """Return the schema of a form's field: it may be left out, and knows no null."""
    kinds = [one for one in field.get("anyOf", ()) if one != {"type": "null"}]
    if not kinds:
        return field
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


def _uploaded(summary: str, form: Json, content: Json) -> Json:
    body = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    return {"post": _operation(summary, content, requestBody=body)}


def _got(summary: str, content: Json, *parameters: str) -> Json:
    return {"get": _operation(summary, content, **_where(*parameters))}


def _open_to_all(path: Json) -> Json:
    return {"get": {**path["get"], "security": []}}


def _sent_in_any_way(summary: str, model: type[BaseModel], answer: str) -> Json:
    """Return a path that takes JSON and both kinds of forms, and its key in the body as well."""
    kinds = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data")
    schema = _schema(model)
    content = {kind: {"schema": schema} for kind in kinds}
    body = {"required": True, "content": content}
    return {"post": _operation(summary, _ref(answer), requestBody=body)}


def _removed(summary: str, content: Json, *parameters: str) -> Json:
    return {"delete": _operation(summary, content, **_where(*parameters))}


def _where(*names: str) -> Json:
    where = [{"name": name, "in": "path", "required": True, "schema": NAME} for name in names]
    return {"parameters": where} if where else {}


_ANY_JSON: Json = {"application/json": {"schema": OBJECT}}
_ANY_STREAM: Json = {**_ANY_JSON, "text/event-stream": {"schema": TEXT}}
_AUDIO: Json = {
    **{kind: {"schema": {}} for kind in MEDIA_TYPES.values()},
    "text/event-stream": {"schema": TEXT},
}
_TRANSCRIPT: Json = {
    **{kind.partition(";")[0]: {"schema": TEXT} for kind in TEXT_TYPES.values()},
    **_ref("Transcription"),
    "text/event-stream": {"schema": TEXT},
}
_PAGE: list[Json] = [
    {"name": name, "in": "query", "schema": _not_null(field)}
    for name, field in _schema(ConsentPage)["properties"].items()
]
_MODEL_AND_INPUT = open_object({"model": NAME, "input": {}}, "model", "input")
_MESSAGES: Json = {"type": "array", "items": OBJECT, "minItems": 1}

PATHS: dict[str, Json] = {
    "chat": {
        "/v1/chat/completions": _posted(
            "Answer a conversation.",
            open_object({"model": NAME, "messages": _MESSAGES}, "messages"),
            _ANY_STREAM,
        ),
        "/v1/completions": _posted(
            "Continue a text.", open_object({"model": NAME, "prompt": {}}, "prompt"), _ANY_STREAM
        ),
        "/v1/responses": _posted(
            "Answer in OpenAI's Responses API.",
            open_object({"model": NAME, "input": {}}, "input"),
            _ANY_STREAM,
        ),
        "/v1/embeddings": _posted("Embed texts.", _MODEL_AND_INPUT, _ANY_JSON),
        "/v1/score": _posted("Score pairs of texts.", OBJECT, _ANY_JSON),
        "/v1/rerank": _posted("Order documents by a query.", OBJECT, _ANY_JSON),
        "/tokenize": _posted("Return the tokens of a text.", OBJECT, _ANY_JSON),
        "/detokenize": _posted("Return the text of tokens.", OBJECT, _ANY_JSON),
    },
    "speech": {
        "/v1/audio/speech": _posted(
            "Speak a text, as audio or as events with audio in them.",
            _schema(SpeechBody),
            _AUDIO,
        ),
        "/v1/audio/voice-conversion": _uploaded(
            "Say a recording again with a registered voice, or like another recording.",
            _form(ConversionFields, "file", "ref_audio"),
            _AUDIO,
        ),
        "/v1/audio/models": _got("List the models that speak.", _ref("SpeechModelList")),
        "/v1/audio/speech/voices": _got("List the voices.", _ref("VoiceList")),
        "/v1/audio/voices": {
            **_got("List the voices.", _ref("VoiceList")),
            **_uploaded("Register a voice.", _form(VoiceFields, "audio_sample"), _ref("Voice")),
        },
        "/v1/audio/voices/{voice}": {
            **_got("Return one voice.", _ref("Voice"), "voice"),
            **_removed("Delete a registered voice.", _ref("VoiceDeleted"), "voice"),
        },
        "/v1/audio/voice_consents": {
            "get": _operation(
                "List the consents, the oldest first.", _ref("ConsentList"), parameters=_PAGE
            ),
            **_uploaded(
                "Keep a recording of a consent, 1 to 60 s.",
                _form(ConsentFields, "recording"),
                _ref("Consent"),
            ),
        },
        "/v1/audio/voice_consents/{consent}": {
            **_got("Return one consent.", _ref("Consent"), "consent"),
            **_posted(
                "Rename a consent.",
                _schema(ConsentName),
                _ref("Consent"),
                "consent",
            ),
            **_removed("Delete a consent that no voice has.", _ref("ConsentDeleted"), "consent"),
        },
    },
    "transcription": {
        "/v1/audio/transcriptions": _uploaded(
            "Write down what is said in a recording.",
            _form(TranscriptionFields, "file"),
            _TRANSCRIPT,
        ),
        "/v1/audio/translations": _uploaded(
            "Write down in English what is said in a recording.",
            _form(TranslationFields, "file"),
            _TRANSCRIPT,
        ),
    },
    "conversation": {
        "/translate": _sent_in_any_way(
            "Translate texts, in LibreTranslate's shape.", TranslateBody, "Translated"
        ),
        "/detect": _sent_in_any_way(
            "Tell the language of a text, in LibreTranslate's shape.", DetectBody, "Detected"
        ),
        "/languages": _open_to_all(
            _got("List the languages, in LibreTranslate's shape.", _ref("Languages"))
        ),
        "/v1/audio/speech-translations": _uploaded(
            "Say in another language what is said in a recording.",
            _form(SpeechTranslationFields, "file"),
            _AUDIO,
        ),
    },
}
"""The paths of each role behind the front door."""

_EVERYWHERE: Json = {
    "/v1/models": _got("List the models of every role.", _ref("ModelList")),
    "/v1/models/{model}": _got("Return one model.", _ref("Model"), "model"),
}


def _health(summary: str, failing: str) -> Json:
    told = {"description": "Why not.", "content": _ref("Health")}
    operation = _operation(summary, _ref("Health"))
    operation["responses"] = {**operation["responses"], failing: told}
    return _open_to_all({"get": operation})


_ABOUT_ITSELF: Json = {
    "/livez": _health("Tell whether the process lives.", "500"),
    "/readyz": _health("Tell whether requests can be answered.", "503"),
    "/metrics": _open_to_all(_got("Prometheus' metrics.", {"text/plain": {"schema": TEXT}})),
    "/openapi.json": _open_to_all(_got("This document.", _ANY_JSON)),
}


def document(roles: Collection[str]) -> Json:
    """Return the document of a front door before these roles."""
    paths = {**_EVERYWHERE, **_ABOUT_ITSELF}
    for role in roles:
        paths.update(PATHS[role])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Bentovox",
            "version": __version__,
            "description": "Chat, speech and transcription on your own machines behind OpenAI's "
            "HTTP API.",
        },
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        # Either: a server without keys is open to all.
        "security": [{"key": []}, {}],
    }
