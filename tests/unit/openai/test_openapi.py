from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from pydantic import SecretStr, ValidationError

from services.audio.formats import MEDIA_TYPES
from services.gateway import routes as gateway_routes
from services.openai.openapi import document
from services.openai.paths import (
    CLIENT_SECRETS,
    LIVE_TRANSLATION,
    MODELS,
    OPENAPI,
    REALTIME,
    ROUTES,
)
from services.openai.speech import (
    ConsentFields,
    ConversionFields,
    SpeechBody,
    VoiceFields,
)
from services.openai.transcription import TEXT_TYPES, TranscriptionFields, TranslationFields
from services.openai.translation import SpeechTranslationFields
from services.server.shell import Shell
from services.settings.sections import GatewaySettings

WHOLE = document([*ROUTES])


def template(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)


@pytest.mark.parametrize("roles", [["speech"], ["chat"], ["chat", "speech"], [*ROUTES]])
def test_what_is_documented_is_what_the_door_opens(roles: list[str]) -> None:
    api = GatewaySettings(playground=False)  # a page, and no part of it
    shell = gateway_routes.build(api, {role: ["http://127.0.0.1:1"] for role in roles})
    health = {"/livez", "/readyz", "/metrics"}
    opened = {path.replace("{*}", "{}") for _, path in shell.handlers} | health
    assert {template(path) for path in document(roles)["paths"]} == opened


def test_the_rest_are_the_gateways_own() -> None:
    rest = {template(path) for path in document([])["paths"]}
    models = {path.replace("{*}", "{}") for _, path in MODELS}
    secrets = {f"{path}/{CLIENT_SECRETS}" for path in (REALTIME, LIVE_TRANSLATION)}
    assert rest == models | secrets | {"/livez", "/readyz", "/metrics", OPENAPI}


def body_of(path: str, kind: str = "multipart/form-data") -> Any:
    return WHOLE["paths"][path]["post"]["requestBody"]["content"][kind]["schema"]


@pytest.mark.parametrize(
    ("path", "model", "files"),
    [
        ("/v1/audio/voice-conversion", ConversionFields, {"file", "ref_audio"}),
        ("/v1/audio/voices", VoiceFields, {"audio_sample"}),
        ("/v1/audio/voice_consents", ConsentFields, {"recording"}),
        ("/v1/audio/speech-translations", SpeechTranslationFields, {"file"}),
        ("/v1/audio/transcriptions", TranscriptionFields, {"file"}),
        ("/v1/audio/translations", TranslationFields, {"file"}),
    ],
)
def test_a_form_is_its_fields_and_files_and_knows_no_null(
    path: str, model: Any, files: set[str]
) -> None:
    form = body_of(path)
    assert form["properties"].keys() == model.model_fields.keys() | files
    assert form["additionalProperties"] is False
    assert not any({"type": "null"} in one.get("anyOf", ()) for one in form["properties"].values())


def test_a_body_that_the_document_allows_is_read_and_another_is_not() -> None:
    schema = body_of("/v1/audio/speech", "application/json")
    schema = {**schema, "components": WHOLE["components"]}
    for body, good in (
        ({"model": "tts-1", "input": "a", "voice": {"id": "v"}, "speed": 4}, True),
        ({"model": "tts-1", "input": ""}, False),
        ({"model": "tts-1", "input": "a", "speed": 5}, False),
        ({"model": "tts-1", "input": "a", "response_format": "midi"}, False),
    ):
        assert Draft202012Validator(schema).is_valid(body) == good
        try:
            SpeechBody.model_validate(body)
        except ValidationError:
            assert not good
        else:
            assert good


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
    url = await serve(Shell(gateway_routes.build(gateway, {"speech": ["http://127.0.0.1:1"]})))
    async with httpx.AsyncClient(base_url=url) as client:
        response = await client.get(OPENAPI)
        assert (await client.get("/v1/models")).status_code == 401
    assert response.status_code == 200
    assert response.json() == document(["speech"])
