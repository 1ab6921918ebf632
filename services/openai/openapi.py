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
_COMPONENT: Final = "#/components/schemas/{model}"


def document(roles: Collection[str]) -> Json:
    """Return the document of a gateway in front of these roles."""
    schemas: Json = {}
    paths: dict[str, Json] = defaultdict(dict)
    for operation in (*MODELS_API, *OWN_API, *(one for role in roles for one in API[role])):
        method, _, path = operation.at.partition(" ")
        paths[path][method.lower()] = _operation(path, operation, schemas)
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
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        # Either a key or none: a server without keys is open to all.
        "security": [{"key": []}, {}],
    }


def _operation(path: str, operation: Operation, schemas: Json) -> Json:
    answers = _content(operation.answers, schemas)
    responses = {"200": {"description": "The answer.", "content": answers}}
    if operation.failing:
        responses[operation.failing] = {"description": "Why not.", "content": answers}
    for status in ("4XX", "5XX"):
        responses[status] = {
            "description": f"OpenAI's error object, for each status of {status[0]}xx.",
            "content": _content(Error, schemas),
        }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _SEGMENT}
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    if operation.query is not None:
        fields = _form(_schema(operation.query, schemas))["properties"]
        parameters += [{"name": name, "in": "query", "schema": one} for name, one in fields.items()]
    described: Json = {"summary": operation.summary, "responses": responses}
    if parameters:
        described["parameters"] = parameters
    if operation.reads:
        content = _content(operation.reads, schemas, operation.files)
        described["requestBody"] = {"required": True, "content": content}
    if operation.keyless:
        described["security"] = []
    return described


def _content(kinds: Any, schemas: Json, files: Sequence[str] = ()) -> Json:
    """Return the schemas of a type, as JSON, or of one a media type; with files, of a form."""
    by_media_type = kinds if isinstance(kinds, dict) else {JSON: kinds}
    content = {media: _schema(kind, schemas) for media, kind in by_media_type.items()}
    return {
        media: {"schema": _form(schema, files) if files else schema}
        for media, schema in content.items()
    }


def _form(schema: Json, files: Sequence[str] = ()) -> Json:
    """Return the schema of a form: its files, of which the first is required, and its fields.

    A field may be left out, but cannot be null.
    """
    fields: Json = dict.fromkeys(files, _FILE)
    for name, field in schema["properties"].items():
        kinds = [one for one in field.get("anyOf", ()) if one != {"type": "null"}]
        fields[name] = field if not kinds else kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    required = [*files[:1], *schema.get("required", ())]
    return {**schema, "properties": fields, "required": required}


def _schema(kind: Any, schemas: Json) -> Json:
    """Return the schema of a type; TypedDicts and what it refers to are put among `schemas`."""
    schema = TypeAdapter(kind).json_schema(ref_template=_COMPONENT)
    schemas.update(schema.pop("$defs", {}))
    if not is_typeddict(kind):
        return schema
    name = kind.__name__.lstrip("_")
    schemas[name] = schema
    return {"$ref": _COMPONENT.format(model=name)}
