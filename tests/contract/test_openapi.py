"""Our OpenAPI document describes the running gateway: schemathesis makes the requests."""

from __future__ import annotations

from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from services.openai.openapi import document

load_all_checks()

CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


schema = schemathesis.openapi.from_dict(document(["chat", "speech", "transcription"]))


def test_the_document_is_what_the_door_serves(stack: Any) -> None:
    assert httpx.get(f"{stack.url}/openapi.json").json() == schema.raw_schema


@schema.parametrize()
@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_whatever_is_asked_the_answer_is_as_documented(case: Any, fresh: Any, key: str) -> None:
    response = case.call(base_url=fresh.url, headers={"Authorization": f"Bearer {key}"})
    case.validate_response(response, checks=CHECKS)
    if response.status_code >= 400:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    assert fresh.door.app.readiness().status == "ready"
