"""vLLM's answers on their way out: one that broke off never ends as if it were complete."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from services.chat.engine import Answer
from services.errors import EngineError, InvalidRequestError

STREAM = [(b"content-type", b"text/event-stream; charset=utf-8")]
REFUSED = (
    b'data: {"error": {"message": "no", "type": "BadRequestError", "param": "n", "code": 400}}'
)
BROKEN = b'data: {"error": {"message": "dead", "type": "InternalServerError", "code": 500}}'
WORD, DONE = b'data: {"id": "chatcmpl-1"}\n\n', b"data: [DONE]\n\n"
CREATED = b'event: response.created\ndata: {"type": "response.created"}\n\n'
BEGUN = b'event: response.in_progress\ndata: {"type": "response.in_progress"}\n\n'


def answered(
    *pieces: bytes,
    headers: list[tuple[bytes, bytes]] = STREAM,
    events: bool = False,
    broken: EngineError | None = None,
) -> tuple[list[Any], Answer]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> Answer:
        answer = Answer(send, events=events)
        await answer.send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in pieces:
            await answer.send({"type": "http.response.body", "body": piece, "more_body": True})
        if broken is not None:
            await answer.break_off(broken)
        await answer.send({"type": "http.response.body", "body": b"", "more_body": False})
        return answer

    answer = asyncio.run(run())
    return sent, answer


def body(sent: list[Any]) -> bytes:
    return b"".join(message.get("body", b"") for message in sent)


def test_a_whole_stream_passes_unchanged() -> None:
    sent, answer = answered(WORD, WORD, DONE)
    assert answer.error is None
    assert body(sent) == WORD + WORD + DONE
    assert sent[-1]["more_body"] is False


def test_a_stream_is_kept_by_no_proxy() -> None:
    sent, _ = answered(WORD)
    headers = dict(sent[0]["headers"])
    assert headers[b"cache-control"] == b"no-cache"
    assert headers[b"x-accel-buffering"] == b"no"


@pytest.mark.parametrize("beforehand", [(), (CREATED, BEGUN)])
def test_the_head_waits_for_the_engines_first_word(beforehand: tuple[bytes, ...]) -> None:
    sent, answer = answered(*beforehand, REFUSED + b"\n\n", DONE, events=True)
    assert sent == []
    assert isinstance(answer.error, InvalidRequestError)
    assert (answer.error.message, answer.error.param) == ("no", "n")


def test_what_was_said_beforehand_comes_with_the_first_word() -> None:
    delta = b"event: response.output_item.added\ndata: {}\n\n"
    sent, _ = answered(CREATED, BEGUN, delta, events=True)
    assert body(sent) == CREATED + BEGUN + delta


def test_a_stream_that_breaks_says_so_in_openais_form_and_has_no_end() -> None:
    sent, answer = answered(WORD, BROKEN + b"\n\n", DONE)
    assert isinstance(answer.error, EngineError)
    assert body(sent).startswith(WORD + b"data: ")
    fault = json.loads(body(sent).removeprefix(WORD + b"data: "))["error"]
    assert set(fault) == {"message", "type", "param", "code"}
    assert fault["type"] == "server_error"
    assert b"[DONE]" not in body(sent)
    assert all(message.get("more_body", True) for message in sent)


def test_a_stream_of_events_that_breaks_ends_with_an_error_event() -> None:
    delta = b"event: response.output_text.delta\ndata: {}\n\n"
    sent, answer = answered(CREATED, BEGUN, delta, events=True, broken=EngineError("dead"))
    assert isinstance(answer.error, EngineError)
    last = body(sent).removeprefix(CREATED + BEGUN + delta)
    assert last.startswith(b"event: error\ndata: ")
    event = json.loads(last.removeprefix(b"event: error\ndata: "))
    assert (event["type"], event["message"], event["sequence_number"]) == ("error", "dead", 3)
    assert all(message.get("more_body", True) for message in sent)


def test_one_that_breaks_before_its_first_word_sends_nothing() -> None:
    sent, answer = answered(CREATED, BEGUN, events=True, broken=EngineError("dead"))
    assert sent == []
    assert isinstance(answer.error, EngineError)


def test_an_answer_that_is_no_stream_passes_at_once() -> None:
    sent, _ = answered(b"{}", headers=[(b"content-type", b"application/json")])
    assert sent[0]["headers"] == [(b"content-type", b"application/json")]
    assert body(sent) == b"{}"
