"""The gateway's OpenAPI 3.1 document, generated from the table of paths and its types."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, Final

from pydantic import TypeAdapter
from typing_extensions import is_typeddict

from services import __version__
from services.openai.errors import Error
from services.openai.paths import API, JSON, MODELS_API, OWN_API, Operation

Json = dict[str, Any]


_FILE: Final = {"type": "string", "contentMediaType": "application/octet-stream"}
_SEGMENT: Final = {"type": "string", "minLength": 1, "maxLength": 256}


def document(roles: Collection[str]) -> Json:
    """Return the document of a gateway in front of these roles."""
    operations = [*MODELS_API, *OWN_API, *(one for role in roles for one in API[role])]
    answers = [kind for one in operations for kind in one.answers.values() if is_typeddict(kind)]
    paths: dict[str, Json] = defaultdict(dict)
    for operation in operations:
        method, _, path = operation.at.partition(" ")
        paths[path][method.lower()] = _operation(path, operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Bentovox",
            "version": __version__,
            "description": "Chat, speech and transcription on your own machines behind OpenAI's "
            "HTTP API.",
        },
        "paths": dict(paths),
        "components": {
            "schemas": {kind.__name__: _schema(kind) for kind in (Error, *answers)},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        # Either a key or none: a server without keys is open to all.
        "security": [{"key": []}, {}],
    }


def _operation(path: str, operation: Operation) -> Json:
    answers = {kind: {"schema": _named(one)} for kind, one in operation.answers.items()}
    responses = {"200": {"description": "The answer.", "content": answers}}
    if operation.failing:
        responses[operation.failing] = {"description": "Why not.", "content": answers}
    for status in ("4XX", "5XX"):
        responses[status] = {
            "description": f"OpenAI's error object, for each status of {status[0]}xx.",
            "content": {JSON: {"schema": _named(Error)}},
        }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _SEGMENT}
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    if operation.query is not None:
        fields = _form(operation.query, ())["properties"]
        parameters += [{"name": name, "in": "query", "schema": one} for name, one in fields.items()]
    described: Json = {"summary": operation.summary, "responses": responses}
    if parameters:
        described["parameters"] = parameters
    if operation.reads:
        content = {
            kind: {"schema": _form(one, operation.files) if operation.files else _schema(one)}
            for kind, one in operation.reads.items()
        }
        described["requestBody"] = {"required": True, "content": content}
    if operation.keyless:
        described["security"] = []
    return described


def _form(kind: Any, files: Sequence[str]) -> Json:
    """Return the schema of a form: its files, of which the first is required, and its fields."""
    schema = _schema(kind)
    fields = {name: _not_null(field) for name, field in schema["properties"].items()}
    return {
        **schema,
        "properties": {**dict.fromkeys(files, _FILE), **fields},
        "required": [*files[:1], *schema.get("required", ())],
    }


def _not_null(field: Json) -> Json:
    """Return the schema of a form's field, which may be left out but cannot be null."""
    kinds = [one for one in field.get("anyOf", ()) if one != {"type": "null"}]
    if not kinds:
        return field
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


def _named(kind: Any) -> Json:
    """Return the schema of an answer; TypedDicts are among the components."""
    if is_typeddict(kind):
        return {"$ref": f"#/components/schemas/{kind.__name__}"}
    return _schema(kind)


def _schema(kind: Any) -> Json:
    """Return the self-contained schema of a type."""
    schema = TypeAdapter(kind).json_schema()
    return _plain(schema, schema.pop("$defs", {}))  # type: ignore[no-any-return]


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
