"""After a client hangs up, its slot is free and the engine stops."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.e2e.server import MODEL, eventually

if TYPE_CHECKING:
    from tests.e2e.server import Server

_TOKENS = 1900  # of each of _CHOICES: seconds of work
_CHOICES = 4
LONG_ANSWER = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": _TOKENS,
    "ignore_eos": True,
    "temperature": 1.0,
    "n": _CHOICES,
}
LONG_SPEECH = {
    "model": "tts-1",
    "voice": "alloy",
    "speed": 0.25,
    "input": "word " * 800,
    "response_format": "flac",
}


def idle(stack: Server) -> bool:
    return (
        stack.sample("vllm:num_requests_running", backend="chat-0") == 0
        and stack.sample("bentovox_slots_in_use") == 0
    )


def generated(stack: Server) -> float:
    return stack.sample("vllm:generation_tokens_total", backend="chat-0")


def test_a_chat_stream_that_is_hung_up_on_is_aborted_in_the_engine(stack: Server) -> None:
    before = generated(stack)
    body = {**LONG_ANSWER, "stream": True}
    with httpx.stream("POST", f"{stack.url}/v1/chat/completions", json=body) as answer:
        pieces = answer.iter_raw()  # kept: its end would be the hang-up
        assert b"delta" in next(pieces)
        assert stack.sample("bentovox_slots_in_use", backend="chat-0") == _CHOICES
    eventually(lambda: idle(stack), 5, "an idle engine and free slots")
    assert generated(stack) - before < _CHOICES * _TOKENS * 0.8


def test_a_chat_request_that_is_hung_up_on_unanswered_is_aborted_too(stack: Server) -> None:
    before = generated(stack)
    body = json.dumps(LONG_ANSWER).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    )
    with socket.create_connection(("127.0.0.1", stack.port)) as connection:
        connection.sendall(head + body)
        eventually(
            lambda: stack.sample("bentovox_slots_in_use", backend="chat-0") == _CHOICES,
            30,
            "its slots in use",
        )
    eventually(lambda: idle(stack), 5, "an idle engine and free slots")
    assert generated(stack) - before < _CHOICES * _TOKENS * 0.8


@pytest.mark.parametrize("form", ["audio", "sse"])
def test_speech_that_is_hung_up_on_stops(stack: Server, form: str) -> None:
    made = stack.sample("bentovox_audio_seconds_total")
    body: dict[str, Any] = {**LONG_SPEECH, "stream_format": form}
    with httpx.stream("POST", f"{stack.url}/v1/audio/speech", json=body) as answer:
        next(answer.iter_raw())
    eventually(lambda: idle(stack), 5, "free slots")
    eventually(
        lambda: stack.sample("bentovox_audio_seconds_total") > made, 5, "the audio to be counted"
    )
    assert stack.sample("bentovox_audio_seconds_total") - made < 1500  # of about 2000 s


def test_a_client_that_goes_in_the_middle_of_its_body_took_no_slot(stack: Server) -> None:
    for path in ("chat/completions", "audio/speech"):
        with socket.create_connection(("127.0.0.1", stack.port)) as raw:
            raw.sendall(
                f"POST /v1/{path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                'content-length: 500\r\n\r\n{"model": '.encode()
            )
            eventually(lambda: idle(stack), 5, "no slot: it has not asked for anything yet")
    eventually(lambda: idle(stack), 5, "free slots")
