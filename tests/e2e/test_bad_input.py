"""Bad requests are refused in OpenAI's error shape, wherever this is noticed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.e2e.server import MODEL

if TYPE_CHECKING:
    from tests.e2e.server import Server

CHAT, SPEECH = "/v1/chat/completions", "/v1/audio/speech"
JSON = {"content-type": "application/json"}
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
SAY = {"model": "tts-1", "voice": "alloy", "input": "Hello."}


def refused(answer: httpx.Response, *statuses: int) -> dict[str, Any]:
    """Return the error, whose shape is right."""
    assert answer.status_code in statuses, answer.text
    assert answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert error["code"] is None or isinstance(error["code"], str)
    return error


@pytest.mark.parametrize("path", [CHAT, SPEECH])
@pytest.mark.parametrize("body", [b"{", b"[]", b"", b'"words"', b"\xff\xfe"])
def test_a_body_that_is_no_json_object_is_400(stack: Server, path: str, body: bytes) -> None:
    refused(httpx.post(stack.url + path, content=body, headers=JSON), 400)


@pytest.mark.parametrize("path", [CHAT, SPEECH])
def test_another_content_type_is_415(stack: Server, path: str) -> None:
    answer = httpx.post(stack.url + path, content=b"{}", headers={"content-type": "text/plain"})
    refused(answer, 415)


@pytest.mark.parametrize("path", [CHAT, SPEECH])
def test_a_body_over_the_limit_is_413(stack: Server, path: str) -> None:
    refused(httpx.post(stack.url + path, content=b" " * (33 << 20), headers=JSON, timeout=30), 413)


@pytest.mark.parametrize("path", [CHAT, SPEECH])
def test_an_endless_body_is_413_without_its_end(stack: Server, path: str) -> None:
    def endless() -> Any:
        for _ in range(40):
            yield b" " * (1 << 20)

    with contextlib.suppress(httpx.TransportError):  # hung up on while sending bounds it as well
        refused(httpx.post(stack.url + path, content=endless(), headers=JSON, timeout=30), 413)


@pytest.mark.parametrize(("path", "body"), [(CHAT, HELLO), (SPEECH, SAY)])
def test_a_refused_upload_takes_the_service_from_nobody_else(
    stack: Server, path: str, body: dict[str, Any]
) -> None:
    with httpx.Client(timeout=30) as client:
        for size_mib in (0.2, 1, 9, 31):
            content = (b" " * (1 << 16) for _ in range(int(size_mib * 16)))
            with contextlib.suppress(httpx.TransportError):
                answer = client.post(stack.url + path, content=content, headers=JSON)
                assert answer.status_code in {400, 413}
            for _ in range(3):
                assert client.post(stack.url + path, json=body).status_code == 200


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"voice": "nobody"}, "voice"),
        ({"response_format": "midi"}, "response_format"),
        ({"speed": 5}, "speed"),
        ({"speed": 0.1}, "speed"),
        ({"speed": "fast"}, "speed"),
        ({"input": ""}, "input"),
        ({"input": "   "}, "input"),
        ({"input": "a" * 4097}, "input"),
        ({"model": "tts-99"}, "model"),
        ({"spede": 3}, "spede"),
        ({"language": "klingonese"}, "language"),
    ],
)
def test_speech_that_cannot_be_made_is_refused_by_field(
    stack: Server, change: dict[str, Any], param: str
) -> None:
    error = refused(httpx.post(stack.url + SPEECH, json={**SAY, **change}), 400, 404)
    assert error["param"] == param


@pytest.mark.parametrize(
    "change",
    [
        {"model": "gpt-99"},
        {"messages": "Hello"},
        {"messages": []},
        {"temperature": -1},
        {"n": 0},
        {"max_tokens": -5},
        {"temprature": 1},
        {"messages": [{"role": "user", "content": "word " * 6000}]},
        {"response_format": {"type": "json_schema"}},
    ],
)
def test_chat_that_cannot_be_answered_is_refused(stack: Server, change: dict[str, Any]) -> None:
    answer = httpx.post(stack.url + CHAT, json={**HELLO, **change}, timeout=30)
    refused(answer, 400, 404)


def test_an_unknown_path_is_404_and_a_wrong_method_405(stack: Server) -> None:
    refused(httpx.post(f"{stack.url}/v1/nothing", json={}), 404)
    answer = httpx.get(stack.url + CHAT)
    refused(answer, 405)
    assert answer.headers["allow"] == "POST"


def test_a_hundred_broken_requests_leave_no_slot_taken(stack: Server) -> None:
    with httpx.Client() as client:
        for _ in range(50):
            refused(client.post(stack.url + CHAT, content=b"{", headers=JSON), 400)
            refused(client.post(stack.url + SPEECH, json={**SAY, "speed": 9}), 400)
    assert stack.sample("bentovox_slots_in_use") == 0
