"""Others are served whatever a hostile client sends, and memory is freed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from websockets.asyncio.client import connect

from tests.e2e.server import MODEL, Server, eventually

if TYPE_CHECKING:
    from tests.hostile.conftest import Neighbours

_GROWTH_MIB = 150
HELLO = [{"role": "user", "content": "Hello"}]


def memory_mib(server: Server) -> float:
    """Return what the server's processes hold, but for the one that ends a minute after its use."""
    total = 0
    for process in server.processes():
        with contextlib.suppress(psutil.Error):
            if not any("trial_process" in part for part in process.cmdline()):
                total += process.memory_info().rss
    return total / (1 << 20)


@pytest.fixture(autouse=True)
def memory_comes_back(stack: Server, bounds: dict[str, float]) -> Any:
    assert bounds  # everything was asked once, so that nothing is loaded later
    before = memory_mib(stack)
    yield
    eventually(
        lambda: memory_mib(stack) < before + _GROWTH_MIB, 60, f"back to {before:.0f} MiB and a bit"
    )


def opened(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def send_on(server: Server, head: bytes, piece: bytes, total_bytes: int) -> bytes:
    """Send `head`, then `piece` again and again; return what the server said to it."""
    with opened(server) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(head)
            for _ in range(total_bytes // len(piece)):
                connection.sendall(piece)
        with contextlib.suppress(OSError):
            return connection.recv(65536)
    return b""


# Connections


@pytest.mark.parametrize(
    ("head", "piece", "total_bytes"),
    [
        (b"GET /livez HTTP/1.1\r\nhost: localhost\r\nx: ", b"a" * 65536, 100 << 20),
        (b"GET /livez HTTP/1.1\r\nhost: localhost\r\n", b"x: y\r\n" * 10_000, 6 << 20),
        (b"GET /", b"a" * 65536, 100 << 20),
    ],
    ids=["one-header", "a-million-headers", "a-path"],
)
def test_a_head_without_end(
    stack: Server, neighbours: Neighbours, head: bytes, piece: bytes, total_bytes: int
) -> None:
    said: list[bytes] = []
    neighbours.while_(lambda: said.append(send_on(stack, head, piece, total_bytes)))
    assert not said[0] or b" 431 " in said[0].splitlines()[0]


def test_hundreds_of_heads_that_are_half_sent(stack: Server, neighbours: Neighbours) -> None:
    def attack() -> None:
        with contextlib.ExitStack() as all_of_them:
            for _ in range(400):
                one = all_of_them.enter_context(opened(stack))
                one.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx: ")
            one.settimeout(60)
            assert b" 408 " in one.recv(4096).splitlines()[0]

    neighbours.while_(attack)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/chat/completions", b"application/json"),
        ("/v1/audio/speech", b"application/json"),
        ("/v1/audio/transcriptions", b"multipart/form-data; boundary=a"),
    ],
)
def test_bodies_that_never_come(
    stack: Server, neighbours: Neighbours, path: str, kind: bytes
) -> None:
    head = (
        b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-type: %b\r\n"
        b"content-length: 5000\r\n\r\n{" % (path.encode(), kind)
    )

    def attack() -> None:
        with contextlib.ExitStack() as all_of_them, httpx.Client(timeout=60) as client:
            for _ in range(200):
                all_of_them.enter_context(opened(stack)).sendall(head)
            for _ in range(3):
                client.get(f"{stack.url}/livez").raise_for_status()
                time.sleep(0.3)  # so that the neighbours ask while all of them are open

    neighbours.while_(attack)


def test_idle_websockets(stack: Server, neighbours: Neighbours) -> None:
    async def attack() -> None:
        async with contextlib.AsyncExitStack() as all_of_them:
            url = stack.url.replace("http", "ws") + "/v1/audio/speech/stream"
            for _ in range(100):
                await all_of_them.enter_async_context(connect(url, proxy=None))
            async with connect(url, proxy=None) as working:
                config = {"type": "session.config", "voice": "alloy", "response_format": "pcm"}
                await working.send(json.dumps(config))
                await working.send(json.dumps({"type": "input.text", "text": "Hello."}))
                await working.send(json.dumps({"type": "input.done"}))
                said = [await working.recv() for _ in range(3)]
            assert any('"audio.start"' in str(one) for one in said)

    neighbours.while_(lambda: asyncio.run(attack()))


# What one request asks for


def _chat(**more: Any) -> tuple[str, Any]:
    return "/v1/chat/completions", {"model": MODEL, "messages": HELLO, **more}


COSTLY: dict[str, tuple[str, Any]] = {
    "answers": _chat(n=16384, min_tokens=1000, max_tokens=1000),
    "prompts": ("/v1/completions", {"model": MODEL, "prompt": ["a"] * 1000, "max_tokens": 1000}),
    "choices": _chat(structured_outputs={"choice": [f"c{n}" for n in range(200_000)]}),
    "enum": _chat(
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "a",
                "schema": {
                    "type": "object",
                    "properties": {"a": {"enum": [f"value {n}" for n in range(60_000)]}},
                },
            },
        }
    ),
    "tokenize": ("/tokenize", {"model": MODEL, "prompt": "hello world " * 625_000}),
    "items": (
        "/v1/responses",
        {"model": MODEL, "input": [{"role": "user", "content": "a"}] * 50_000},
    ),
    "messages": _chat(messages=HELLO * 50_000),
    "html": (
        "/translate",
        {
            "q": ["<b>a</b>" * 1200] * 4,
            "source": "en",
            "target": "de",
            "format": "html",
            "alternatives": 3,
        },
    ),
}


@pytest.mark.parametrize("what", COSTLY)
def test_a_request_that_asks_for_too_much_is_refused(
    stack: Server, neighbours: Neighbours, what: str
) -> None:
    path, body = COSTLY[what]

    def attack() -> None:
        with httpx.Client(timeout=120) as client:
            answer = client.post(stack.url + path, json=body)
        assert 400 <= answer.status_code < 500, answer.text[:300]
        assert answer.status_code != 429
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert len(answer.content) < 4000

    neighbours.while_(attack)


@pytest.mark.parametrize(
    "regex", ["(a|b){1,5000}" * 20, "((a{1,100}){1,100}){1,100}", "(a*)*" * 99]
)
def test_a_pattern_that_is_hard_to_compile_keeps_nobody_waiting(
    stack: Server, neighbours: Neighbours, regex: str
) -> None:
    path, body = _chat(structured_outputs={"regex": regex}, max_tokens=8)

    def attack() -> None:
        with httpx.Client(timeout=120) as client:
            answer = client.post(stack.url + path, json=body)
        assert answer.status_code in {200, 400}, answer.text[:300]

    neighbours.while_(attack)


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/v1/chat/completions", "application/json", b"[" * 5_000_000),
        ("/v1/chat/completions", "application/json", b'{"a":' * 1_000_000),
        ("/v1/chat/completions", "application/json", b"{" + b'"a":[],' * 800_000 + b'"b":1}'),
        ("/v1/audio/speech", "application/json", b"[" * 5_000_000),
        ("/v1/audio/speech", "application/json", b'{"' + b"x" * 1_000_000 + b'": 1}'),
        ("/translate", "application/json", b"[" * 300_000),
        ("/v1/embeddings", "application/json", b'{"input": [' + b"1," * 3_000_000 + b"1]}"),
        ("/v1/audio/transcriptions", "multipart/form-data; boundary=a", b"--a\r\n" * 2_000_000),
    ],
)
def test_a_body_that_is_hard_to_read_is_refused(
    stack: Server, neighbours: Neighbours, path: str, kind: str, body: bytes
) -> None:
    def attack() -> None:
        with httpx.Client(timeout=120) as client:
            answer = client.post(stack.url + path, content=body, headers={"content-type": kind})
        assert 400 <= answer.status_code < 500, answer.text[:300]
        assert len(answer.content) < 4000
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    neighbours.while_(attack)


def test_uploads_that_are_large_and_stop_short(stack: Server, neighbours: Neighbours) -> None:
    size = 30 << 20
    head = (
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: localhost\r\n"
        b"content-type: multipart/form-data; boundary=a\r\ncontent-length: %d\r\n\r\n"
        b'--a\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' % size
    )
    connections: list[socket.socket] = []

    def attack() -> None:
        for _ in range(30):
            one = opened(stack)
            connections.append(one)
            with contextlib.suppress(OSError):  # refused in the middle of it
                one.sendall(head)
                one.sendall(bytes(size // 2))

    neighbours.while_(attack)
    for one in connections:
        one.close()


# Pages


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost.evil.example"]
)
def test_a_page_of_another_origin_changes_nothing(
    stack: Server, neighbours: Neighbours, origin: str
) -> None:
    def attack() -> None:
        with httpx.Client(timeout=60, headers={"origin": origin}) as client:
            form = {"files": {"recording": b"a"}, "data": {"name": "a", "language": "en"}}
            answer = client.post(f"{stack.url}/v1/audio/voice_consents", **form)
            assert answer.status_code == 403
            assert client.get(f"{stack.url}/v1/audio/voice_consents").json()["data"] == []

    neighbours.while_(attack)


def test_a_name_that_points_here_from_outside_is_no_host(
    stack: Server, neighbours: Neighbours
) -> None:
    def attack() -> None:
        with httpx.Client(timeout=60, headers={"host": "rebound.example:80"}) as client:
            assert client.post(f"{stack.url}/v1/audio/speech", json={}).status_code == 403

    neighbours.while_(attack)
