from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from services.audio.encode import MEDIA_TYPES
from services.conversation.speech_translation.schema import SpeechTranslationFields
from services.conversation.translation.schema import DetectBody, TranslateBody
from services.gateway import app
from services.gateway.app import MODELS, OPENAPI, ROUTES
from services.openai.openapi import PATHS, document
from services.openai.schemas import FORMS, SCHEMAS, SPEECH_BODY
from services.openai.translation_schemas import TRANSLATION_SCHEMAS
from services.server.shell import Shell
from services.settings.sections import GatewaySettings
from services.speech.schema import (
    ConsentFields,
    ConsentName,
    ConversionFields,
    SpeechBody,
    VoiceFields,
)
from services.transcription.formats import MEDIA_TYPES as TEXT_TYPES
from services.transcription.schema import TranscriptionFields, TranslationFields

WHOLE = document([*ROUTES])


def template(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)


@pytest.mark.parametrize("role", [*ROUTES])
def test_the_documents_paths_and_methods_are_the_routes(role: str) -> None:
    documented = {
        template(path): {method.upper() for method in item} for path, item in PATHS[role].items()
    }
    assert documented == {path: set(methods) - {"HEAD"} for path, methods in ROUTES[role].items()}


@pytest.mark.parametrize("roles", [["speech"], ["chat"], ["chat", "speech"], [*ROUTES]])
def test_what_is_documented_is_what_the_door_opens(roles: list[str]) -> None:
    shell = app.build(GatewaySettings(), {role: ["http://127.0.0.1:1"] for role in roles})
    health = {"/livez", "/readyz", "/metrics"}
    opened = {path.replace("{*}", "{}") for path in shell.paths} | health
    assert {template(path) for path in document(roles)["paths"]} == opened


def test_the_rest_are_models_health_and_the_document_itself() -> None:
    rest = {template(path) for path in document([])["paths"]}
    models = {path.replace("{*}", "{}") for path in MODELS}
    assert rest == models | {"/livez", "/readyz", "/metrics", OPENAPI}


def plain(schema: Any, definitions: dict[str, Any]) -> Any:
    """Return a schema without titles, descriptions, null defaults and references."""
    if isinstance(schema, list):
        return [plain(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return plain(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {
        key: {name: plain(one, definitions) for name, one in value.items()}
        if key == "properties"
        else plain(value, definitions)
        for key, value in schema.items()
        if key not in {"title", "description", "$defs"} and (key, value) != ("default", None)
    }


def test_the_speech_body_is_the_schema_that_is_enforced() -> None:
    enforced = SpeechBody.model_json_schema()
    assert plain(enforced, enforced["$defs"]) == SPEECH_BODY


@pytest.mark.parametrize(
    ("name", "model"), [("TranslateBody", TranslateBody), ("DetectBody", DetectBody)]
)
def test_the_bodies_to_translate_are_the_schemas_that_are_enforced(name: str, model: Any) -> None:
    assert plain(model.model_json_schema(), {}) == TRANSLATION_SCHEMAS[name]


def bare(schema: Any) -> Any:
    """Return a schema whose fields may be left out, but not be null: forms know no null."""
    if isinstance(schema, dict) and "anyOf" in schema:
        kinds = [one for one in schema["anyOf"] if one != {"type": "null"}]
        return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    return schema


@pytest.mark.parametrize(
    ("form", "model", "files"),
    [
        ("ConversionForm", ConversionFields, {"file", "ref_audio"}),
        ("VoiceForm", VoiceFields, {"audio_sample"}),
        ("ConsentForm", ConsentFields, {"recording"}),
        ("SpeechTranslationForm", SpeechTranslationFields, {"file"}),
        ("TranscriptionForm", TranscriptionFields, {"file"}),
        ("TranslationForm", TranslationFields, {"file"}),
    ],
)
def test_the_forms_are_the_fields_that_are_read(form: str, model: Any, files: set[str]) -> None:
    enforced = model.model_json_schema()
    enforced = plain(enforced, enforced.get("$defs", {}))
    texts = {name: bare(one) for name, one in enforced["properties"].items()}
    known = {**FORMS, **TRANSLATION_SCHEMAS}[form]
    documented = {name: one for name, one in known["properties"].items() if name not in files}
    assert texts == documented
    assert files <= set(known["properties"])
    assert set(enforced.get("required", ())) <= set(known["required"])


def test_the_new_name_of_a_consent_is_the_schema_that_is_enforced() -> None:
    assert plain(ConsentName.model_json_schema(), {}) == SCHEMAS["ConsentName"]


@pytest.mark.parametrize(
    "path",
    ["/v1/audio/speech", "/v1/audio/voice-conversion", "/v1/audio/speech-translations"],
)
def test_the_audio_types_are_the_encoders(path: str) -> None:
    content = WHOLE["paths"][path]["post"]["responses"]["200"]["content"]
    assert set(content) == {*MEDIA_TYPES.values(), "text/event-stream"}


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/translations"])
def test_the_text_types_are_the_formats(path: str) -> None:
    content = WHOLE["paths"][path]["post"]["responses"]["200"]["content"]
    made = {kind.partition(";")[0] for kind in TEXT_TYPES.values()}
    assert set(content) == {*made, "text/event-stream"}


def test_every_reference_leads_somewhere() -> None:
    found = re.findall(r"'#/components/schemas/(\w+)'", str(WHOLE))
    assert found
    assert set(found) == set(WHOLE["components"]["schemas"])


async def test_it_is_served_without_a_key_and_for_the_roles_behind_the_door(serve: Any) -> None:

    gateway = GatewaySettings(keys=SecretStr("anna:" + "0a" * 32))
    url = await serve(Shell(app.build(gateway, {"speech": ["http://127.0.0.1:1"]})))
    async with httpx.AsyncClient(base_url=url) as client:
        response = await client.get(OPENAPI)
        assert (await client.get("/v1/models")).status_code == 401
    assert response.status_code == 200
    assert response.json() == document(["speech"])
