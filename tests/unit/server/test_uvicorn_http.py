"""Hostile and odd clients: the size of a request's head is limited, and odd clients are served."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Any

import pytest
from uvicorn import Config, Server
from uvicorn.protocols.http import auto

from services.server import uvicorn_http
from services.server.uvicorn_http import HEAD_BYTES, HEAD_FIELDS, Draining, install

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Serve = Callable[[Any], Awaitable[str]]

H2C = (
    b"POST /echo HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: %d\r\n"
    b"Host: x\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n\r\n"
)


OLD_SOCKET = (
    b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 8\r\n\r\n"
)
CHUNKED = b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


async def echo(_scope: Any, receive: Any, send: Any) -> None:
    """Answer with the body, in two pieces, without a length."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    half = len(body) // 2
    await send({"type": "http.response.body", "body": body[:half], "more_body": True})
    await send({"type": "http.response.body", "body": body[half:]})


async def talk(url: str, *pieces: bytes) -> bytes:
    """Send the pieces one after the other and return all that comes until the server closes."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0)
    try:
        async with asyncio.timeout(30):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def fault(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return int(head.split()[1]), error["code"]


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nx: " + b"a" * (HEAD_BYTES + 1) + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"a" * (HEAD_BYTES + 1),
        b"GET /" + b"a" * (HEAD_BYTES + 1),
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (HEAD_FIELDS + 1) + b"\r\n",
    ],
)
async def test_a_head_over_the_bounds_is_431(serve: Serve, head: bytes) -> None:
    assert fault(await talk(await serve(echo), head)) == (431, "request_head_too_large")


async def test_a_head_that_is_not_whole_in_time_is_408(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uvicorn_http, "HEAD_S", 0.02)
    url = await serve(echo)
    assert fault(await talk(url, b"GET / HTTP/1.1\r\nhost: x\r\n")) == (408, "request_timeout")


async def test_a_connection_that_says_nothing_is_closed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uvicorn_http, "KEEP_ALIVE_S", 0.02)
    assert await talk(await serve(echo)) == b""


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02",
        b"GET / HTTP/1.1\nhost: x\n\n",
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_400_in_openais_shape(serve: Serve, garbage: bytes) -> None:
    assert fault(await talk(await serve(echo), garbage)) == (400, "invalid_http")


async def test_trailers_are_bounded_too(serve: Serve) -> None:
    url = await serve(echo)
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
    trailer = b"x: " + b"a" * HEAD_BYTES
    assert b"200 OK" not in await talk(url, head, trailer, trailer)


@pytest.mark.parametrize("size", [1, 5, 100_000])
async def test_an_offer_of_h2c_is_served_as_http_1_1_with_its_body(serve: Serve, size: int) -> None:
    body = b"a" * size
    # Java's HttpClient sends its head and its body apart; a proxy may cut anywhere.
    url = await serve(echo)
    last = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    for pieces in ([H2C % size, body], [(H2C % size)[:50], (H2C % size)[50:] + body]):
        answer = await talk(url, *pieces, last)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert answer.count(b"a") >= size


async def test_an_offer_of_h2c_behind_another_request_keeps_its_body_too(serve: Serve) -> None:
    first = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    last = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answer = await talk(await serve(echo), first + H2C % 5 + b"hello" + last)
    assert answer.count(b"200 OK") == 3
    assert b"llo" in answer


@pytest.mark.parametrize(
    "head",
    [
        H2C.replace(b"h2c", b"websocket") % 5 + b"hello",
        H2C.replace(b"h2c", b"websocket, h2c") % 5 + b"hello",
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        OLD_SOCKET,
    ],
)
async def test_what_is_no_whole_handshake_of_a_websocket_is_a_plain_request(
    serve: Serve, head: bytes
) -> None:
    last = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    assert (await talk(await serve(echo), head + last)).count(b"200 OK") == 2


@pytest.mark.parametrize("cut", range(1, 40))
@pytest.mark.parametrize("length", [b"content-length: 5\r\n\r\nhello", CHUNKED])
async def test_pipelined_requests_may_be_cut_anywhere(
    serve: Serve, cut: int, length: bytes
) -> None:
    first = b"POST / HTTP/1.1\r\nhost: x\r\n" + length
    last = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    whole = first + last
    answer = await talk(await serve(echo), whole[:-cut], whole[-cut:])
    assert answer.count(b"200 OK") == 2


async def test_a_body_behind_another_request_is_not_cut_off_when_that_is_answered(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uvicorn_http, "LINGER_S", 0.0)
    first = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    second = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\n"
    host, port = (await serve(echo)).removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(first + second + b"he")
    async with asyncio.timeout(30):
        assert b" 200 " in await reader.readuntil(b"\r\n0\r\n\r\n")
        await asyncio.sleep(0.05)
        writer.write(b"llo")
        assert b"llo" in await reader.read()
    writer.close()


async def test_a_broken_chunk_is_400_in_words(serve: Serve) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    assert fault(await talk(await serve(echo), head, b"ZZ\r\n")) == (400, "invalid_http")


async def test_http_1_0_is_answered_without_chunks_to_the_end_of_the_connection(
    serve: Serve,
) -> None:
    request = b"POST / HTTP/1.0\r\ncontent-length: 5\r\n\r\nhello"
    head, _, body = (await talk(await serve(echo), request)).partition(b"\r\n\r\n")
    assert body == b"hello"
    assert b"transfer-encoding" not in head


async def test_a_connection_is_used_again_and_pipelined_requests_are_answered(
    serve: Serve,
) -> None:
    one = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello"
    last = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answer = await talk(await serve(echo), one + one + one[:20], one[20:] + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 4


async def test_a_client_that_takes_nothing_of_its_answer_is_dropped(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uvicorn_http, "WRITE_CHECK_S", 0.05)
    gone = asyncio.Event()

    async def flood(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        waiting = asyncio.ensure_future(receive())
        while not waiting.done():
            piece = {"type": "http.response.body", "body": bytes(65536), "more_body": True}
            await send(piece)
            await asyncio.sleep(0)
        gone.set()

    host, port = (await serve(flood)).removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
    async with asyncio.timeout(60):
        await gone.wait()
    writer.close()


# Draining


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[Server]:
    """Return the servers whose own shutdown has begun; undo what a test installs."""
    ended: list[Server] = []

    async def shutdown(self: Server, sockets: Any = None) -> None:
        del sockets
        ended.append(self)

    monkeypatch.setattr(Server, "shutdown", shutdown)
    monkeypatch.setattr(auto, "AutoHTTPProtocol", auto.AutoHTTPProtocol)
    monkeypatch.setattr(Draining, "begun", False)
    return ended


async def test_a_server_that_is_told_to_end_serves_on_for_a_while(ended: list[Server]) -> None:
    install(drain_s=0.2)
    server = Server(Config(echo))
    began = asyncio.get_running_loop().time()
    ending = asyncio.ensure_future(server.shutdown())
    await asyncio.sleep(0)
    assert Draining.begun
    assert not ended
    await ending
    assert asyncio.get_running_loop().time() - began >= 0.2
    assert ended == [server]


async def test_a_second_sigint_ends_it_at_once(ended: list[Server]) -> None:
    install(drain_s=20)
    server = Server(Config(echo))
    ending = asyncio.ensure_future(server.shutdown())
    await asyncio.sleep(0)
    server.handle_exit(signal.SIGTERM, None)
    server.handle_exit(signal.SIGTERM, None)  # a supervisor may repeat itself
    await asyncio.sleep(0.2)
    assert not ended
    server.handle_exit(signal.SIGINT, None)
    async with asyncio.timeout(5):
        await ending
    assert ended == [server]
