"""WebSockets through the gateway: real clients and backends, with uvicorn on both sides."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import shutil
import ssl
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve as serve_websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus

from services.backends import client as calls
from services.errors import EngineError, OverloadedError
from services.gateway import tunnel
from services.openai.paths import MODELS
from services.server import websocket
from services.server.admission import Limits
from services.server.serving import Readiness, RoleApp
from services.server.shell import Shell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

PATH = "/v1/audio/speech/stream"
KEY = "sk-made-for-the-test"
LINE = SecretStr(f"anna:{hashlib.sha256(KEY.encode()).hexdigest()}")


class Behind:
    """A speech role whose WebSocket the test controls."""

    def __init__(self, models: list[str]) -> None:
        self.models = models
        self.scopes: list[Any] = []
        self.ends: list[Any] = []
        self.url = ""
        self.talk: Callable[[Any, Any], Awaitable[None]] = self.echo
        self.accept: dict[str, Any] = {}

    async def echo(self, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})
        self.ends.append(message)

    async def socket(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        await send({"type": "websocket.accept", **self.accept})
        await self.talk(receive, send)

    async def about(self, _scope: Any, _receive: Any, send: Any) -> None:
        body = json.dumps({"data": [{"id": name} for name in self.models]}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    def header(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.scopes[-1]["headers"] if key == name]


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield


@pytest.fixture
def behind(serve: Any) -> Callable[..., Awaitable[Behind]]:
    """Return `await behind("model", ...)`, a backend on a free port or Unix socket."""

    async def start(*models: str, path: str | None = None, socket: Any = None) -> Behind:
        one = Behind(list(models) or ["m"])
        app = RoleApp(
            role="behind",
            handlers=dict.fromkeys(MODELS, one.about),
            sockets={PATH: socket or one.socket},
            limits=Limits(8, 8, 30),
            body_limit_bytes=1 << 20,
            readiness=lambda: Readiness("ready", {}),
            lifespan=nothing,
        )
        one.url = await serve(Shell(app), path=path)
        return one

    return start


def at(url: str, path: str = PATH, **options: Any) -> connect:
    return connect(url.replace("http", "ws", 1) + path, proxy=None, **options)


def fault(refused: InvalidStatus) -> tuple[int, str | None]:
    error = json.loads(bytes(refused.response.body))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert refused.response.headers["x-request-id"]
    return refused.response.status_code, error["code"]


async def until(condition: Callable[[], bool], seconds: float = 2) -> None:
    """Wait for a state that has no event, for at most two seconds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


# What is carried


@pytest.mark.parametrize("way", ["tcp", "unix"])
async def test_messages_arrive_as_they_were_sent(
    behind: Any, door: Any, tmp_path: Path, way: str
) -> None:
    back = await behind(path=str(tmp_path / "s") if way == "unix" else None)
    front = await door(speech=[back.url])
    async with at(front.url) as client:
        for said in ("hällo", b"\x00\xff", "", b"", "x" * (1 << 19), bytes(1 << 19)):
            await client.send(said)
            assert await client.recv() == said


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate")
async def test_over_tls_the_backends_certificate_is_checked(door: Any, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(  # noqa: ASYNC221
        [*command, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)

    async def repeat(connection: Any) -> None:
        async for said in connection:
            await connection.send(said)

    async with serve_websocket(repeat, "localhost", 0, ssl=server) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        front = await door(speech=[f"https://localhost:{port}"])
        front.pools.backends()[0].mark(ready=True)
        with pytest.raises(InvalidStatus) as refused:  # nobody vouches for it
            await at(front.url)
        assert fault(refused.value)[0] == 503
        (backend,) = front.pools.backends()
        backend.mark(ready=True)
        backend.connections.tls = ssl.create_default_context(cafile=certificate)
        async with at(front.url) as client:
            await client.send("hello")
            assert await client.recv() == "hello"


async def test_the_handshake_carries_path_query_headers_and_the_request_id(
    behind: Any, door: Any
) -> None:
    back = await behind()
    front = await door(speech=[back.url], keys=LINE)
    headers = {"authorization": f"Bearer {KEY}", "x-other": "goes on", "x-request-id": "mine"}
    async with at(front.url, f"{PATH}?a=%20b", additional_headers=headers) as client:
        assert client.response.headers.get_all("x-request-id") == ["mine"]
    (scope,) = back.scopes
    assert (scope["path"], scope["query_string"]) == (PATH, b"a=%20b")
    assert back.header(b"x-other") == [b"goes on"]
    assert back.header(b"x-request-id") == [b"mine"]
    assert back.header(b"authorization") == []
    assert back.header(b"host") == [back.url.removeprefix("http://").encode()]
    assert back.header(b"sec-websocket-extensions") == []


async def test_the_backends_subprotocol_is_the_clients(behind: Any, door: Any) -> None:
    back = await behind()
    back.accept = {"subprotocol": "second"}
    front = await door(speech=[back.url])
    async with at(front.url, subprotocols=["first", "second"]) as client:
        assert client.subprotocol == "second"
    assert back.scopes[0]["subprotocols"] == ["first", "second"]


@pytest.mark.parametrize(("code", "reason"), [(1000, "bye"), (1001, ""), (4001, "mine")])
async def test_a_close_goes_through_with_code_and_reason(
    behind: Any, door: Any, code: int, reason: str
) -> None:
    back = await behind()
    front = await door(speech=[back.url])
    client = await at(front.url)
    await client.close(code, reason)
    await until(lambda: bool(back.ends))
    assert (back.ends[0]["code"], back.ends[0]["reason"]) == (code, reason)

    async def leave(_receive: Any, send: Any) -> None:
        await send({"type": "websocket.send", "text": "the last word"})
        await send({"type": "websocket.close", "code": code, "reason": reason})

    back.talk = leave
    async with at(front.url) as other:
        assert await other.recv() == "the last word"
        await other.wait_closed()
    assert (other.close_code, other.close_reason) == (code, reason)


async def test_an_error_of_the_role_reaches_the_client_unchanged(behind: Any, door: Any) -> None:
    async def break_(_receive: Any, _send: Any) -> None:
        raise EngineError("the engine broke", code="engine_failed")

    back = await behind()
    back.talk = break_
    front = await door(speech=[back.url])
    async with at(front.url) as client:
        assert json.loads(await client.recv())["error"]["message"] == "the engine broke"
        await client.wait_closed()
    assert (client.close_code, client.close_reason) == (1011, "engine_failed")
    assert front.pools.backends()[0].ready


# Who may


async def test_without_a_key_it_is_401_and_nothing_reaches_the_backend(
    behind: Any, door: Any
) -> None:
    back = await behind()
    front = await door(speech=[back.url], keys=LINE)
    for options in (
        {},
        {"additional_headers": {"authorization": "Bearer sk-other"}},
        {"subprotocols": ["openai-insecure-api-key.sk-other"]},
        {
            "subprotocols": [f"openai-insecure-api-key.{KEY}"],
            "additional_headers": {"authorization": "Bearer sk-other"},
        },
    ):
        with pytest.raises(InvalidStatus) as refused:
            await at(front.url, **options)
        assert fault(refused.value) == (401, "invalid_api_key")
    assert not back.scopes


async def test_a_browsers_key_is_a_subprotocol_that_stays_at_the_gateway(
    behind: Any, door: Any
) -> None:
    back = await behind()
    front = await door(speech=[back.url], keys=LINE)
    hidden = f"openai-insecure-api-key.{KEY}"
    async with at(front.url, subprotocols=["realtime", hidden]) as client:
        assert client.subprotocol == hidden  # a browser needs one that it offered
    assert back.scopes[0]["subprotocols"] == ["realtime"]
    assert KEY.encode() not in b"".join(value for _, value in back.scopes[0]["headers"])
    async with at(front.url, additional_headers={"x-api-key": KEY}):
        assert KEY.encode() not in b"".join(value for _, value in back.scopes[1]["headers"])
    back.accept = {"subprotocol": "realtime"}
    async with at(front.url, subprotocols=["realtime", hidden]) as client:
        assert client.subprotocol == "realtime"


async def test_only_pages_that_are_allowed_may_open_one(behind: Any, door: Any) -> None:
    back = await behind()
    front = await door(speech=[back.url], cors_origins=["https://mine.example"])
    with pytest.raises(InvalidStatus) as refused:
        await at(front.url, origin="https://other.example")
    assert fault(refused.value) == (403, "origin_not_allowed")
    for origin in ("https://mine.example", front.url):
        async with at(front.url, origin=origin) as client:
            await client.send("hello")
            assert await client.recv() == "hello"
    anywhere = await door(speech=[back.url], cors_origins=["*"])
    async with at(anywhere.url, origin="https://other.example"):
        pass


# Which backend, and none


async def test_an_open_tunnel_counts_when_a_backend_is_picked(behind: Any, door: Any) -> None:
    one, two = await behind(), await behind()
    front = await door(speech=[one.url, two.url])
    async with at(front.url), at(front.url):
        assert (len(one.scopes), len(two.scopes)) == (1, 1)
        assert [back.outstanding for back in front.pools.backends()] == [1, 1]
    await until(lambda: all(back.outstanding == 0 for back in front.pools.backends()))


async def test_the_querys_model_decides_where_backends_differ(behind: Any, door: Any) -> None:
    one, two = await behind("a"), await behind("b")
    front = await door(speech=[one.url, two.url])
    for _ in range(2):
        async with at(front.url, f"{PATH}?model=b"):
            pass
    assert (len(one.scopes), len(two.scopes)) == (0, 2)
    with pytest.raises(InvalidStatus) as refused:
        await at(front.url, f"{PATH}?model=c")
    assert fault(refused.value) == (404, "model_not_found")


async def test_the_querys_model_decides_after_waiting_for_backends_too(
    behind: Any, door: Any
) -> None:
    one, two = await behind("a"), await behind("b")
    front = await door(speech=[one.url, two.url], hold_s=3600)
    backends = front.pools.backends()
    cards = [dict(back.models) for back in backends]
    for back in backends:
        back.mark(ready=False)
    opening = asyncio.ensure_future(at(front.url, f"{PATH}?model=b").__aenter__())
    await until(lambda: front.pools.by_role["speech"].waiting == 1)
    for back, models in zip(backends, cards, strict=True):  # both, before it goes on
        back.models = models
        back.mark(ready=True)
    await (await opening).close()
    assert (len(one.scopes), len(two.scopes)) == (0, 1)


async def test_without_a_ready_backend_it_is_503_before_accept(behind: Any, door: Any) -> None:
    back = await behind()
    front = await door(speech=[back.url])
    front.pools.backends()[0].mark(ready=False)
    with pytest.raises(InvalidStatus) as refused:
        await at(front.url)
    assert fault(refused.value) == (503, "service_unavailable")


async def test_a_backend_that_is_not_there_is_503_and_marked(door: Any) -> None:
    front = await door(speech=["http://127.0.0.1:9"])
    front.pools.backends()[0].mark(ready=True)
    with pytest.raises(InvalidStatus) as refused:
        await at(front.url)
    assert fault(refused.value) == (503, "service_unavailable")
    assert not front.pools.backends()[0].ready


async def test_a_backend_that_says_nothing_is_504(backend: Any, door: Any) -> None:
    async def silent(_request: Any, _writer: Any) -> None:
        await asyncio.Event().wait()

    raw = await backend()
    raw.answer = silent
    front = await door(speech=[raw.url], connect_timeout_s=0.1)
    with pytest.raises(InvalidStatus) as refused:
        await at(front.url)
    assert fault(refused.value) == (504, "deadline_exceeded")


@pytest.mark.parametrize("data", [b"nonsense\r\n\r\n", b""])
async def test_a_backend_that_talks_nonsense_is_502(backend: Any, door: Any, data: bytes) -> None:
    raw = await backend()
    raw.says(data, close=True)
    front = await door(speech=[raw.url])
    with pytest.raises(InvalidStatus) as refused:
        await at(front.url)
    assert fault(refused.value) == (502, "bad_gateway")


async def test_a_backends_redirect_is_not_followed(backend: Any, door: Any) -> None:
    raw = await backend()
    raw.says(b"HTTP/1.1 307 Elsewhere\r\nlocation: /v1/else\r\ncontent-length: 0\r\n\r\n")
    front = await door(speech=[raw.url])
    with pytest.raises(InvalidStatus) as refused:
        await at(front.url)
    assert fault(refused.value) == (502, "bad_gateway")
    assert len(raw.requests) == 1


async def test_a_backends_own_refusal_is_passed_on(behind: Any, door: Any) -> None:
    async def full(_scope: Any, _receive: Any, _send: Any) -> None:
        raise OverloadedError("full", retry_after_s=3)

    back = await behind(socket=full)
    front = await door(speech=[back.url])
    with pytest.raises(InvalidStatus) as refused:
        await at(front.url)
    assert fault(refused.value) == (429, "rate_limit_exceeded")
    assert refused.value.response.headers["retry-after"] == "3"
    assert len(refused.value.response.headers.get_all("content-length")) == 1


async def test_a_foreign_refusal_is_told_in_openais_shape(backend: Any, door: Any) -> None:
    raw = await backend()
    raw.says(b"HTTP/1.1 403 No\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\n<p/>")
    front = await door(speech=[raw.url])
    with pytest.raises(InvalidStatus) as refused:
        await at(front.url)
    assert fault(refused.value)[0] == 403
    assert refused.value.response.headers.get_all("content-type") == ["application/json"]


async def test_an_open_tunnel_takes_no_slot(behind: Any, door: Any) -> None:
    back = await behind()
    front = await door(speech=[back.url], slots=1, queue=0)
    async with at(front.url) as one, at(front.url) as other:
        for client in (one, other):
            await client.send("hello")
            assert await client.recv() == "hello"
        assert (front.shell.admission.in_use, front.shell.open_sockets) == (0, 2)
    await until(lambda: front.shell.open_sockets == 0)


@pytest.mark.parametrize("full", ["of requests", "of connections"])
async def test_a_full_gateway_refuses_before_the_backend_hears_of_it(
    behind: Any, door: Any, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    back = await behind()
    front = await door(speech=[back.url], slots=1, queue=0)
    if full == "of requests":
        await front.shell.admission.acquire()
    else:
        monkeypatch.setattr(websocket, "OPEN_LIMIT", 0)
    with pytest.raises(InvalidStatus) as refused:
        await at(front.url)
    assert fault(refused.value) == (429, "rate_limit_exceeded")
    assert not back.scopes


# The middle, and the end


async def test_a_backend_that_dies_is_an_error_event_and_1011(backend: Any, door: Any) -> None:
    async def die(request: Any, writer: Any) -> None:
        writer.write(_accepted(request) + b"\x81\x04half")
        await writer.drain()
        await request.reader.readexactly(1)
        writer.transport.abort()

    raw = await backend()
    raw.answer = die
    front = await door(speech=[raw.url])
    async with at(front.url) as client:
        assert await client.recv() == "half"
        await client.send("go on")
        assert json.loads(await client.recv())["error"]["code"] == "bad_gateway"
        with pytest.raises(ConnectionClosed):
            await client.recv()
    assert client.close_code == 1011


async def test_a_backend_that_falls_silent_for_good_is_given_up(
    backend: Any, door: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel, "_QUIET_S", 0.05)
    monkeypatch.setattr(calls, "_CLOSE_S", 0.05)

    async def silent(request: Any, writer: Any) -> None:
        writer.write(_accepted(request))
        await writer.drain()
        await asyncio.Event().wait()

    raw = await backend()
    raw.answer = silent
    front = await door(speech=[raw.url])
    async with at(front.url) as client:
        assert json.loads(await client.recv())["error"]["code"] == "bad_gateway"


async def test_a_quiet_backend_that_answers_pings_is_kept(
    behind: Any, door: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel, "_QUIET_S", 0.02)
    back = await behind()
    front = await door(speech=[back.url])
    async with at(front.url) as client:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.recv(), 0.3)
        await client.send("still here")
        assert await client.recv() == "still here"


async def test_a_client_that_vanishes_ends_the_backends_work(behind: Any, door: Any) -> None:
    back = await behind()
    front = await door(speech=[back.url])
    client = await at(front.url)
    await client.send("hello")
    await client.recv()
    client.transport.abort()
    await until(lambda: bool(back.ends))
    await until(lambda: front.shell.admission.in_use == 0)


async def test_a_slow_client_slows_the_backend(
    behind: Any, door: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_CLOSE_S", 0.05)
    sent = 0
    piece = bytes(1 << 16)

    async def flood(_receive: Any, send: Any) -> None:
        nonlocal sent
        while True:
            await send({"type": "websocket.send", "bytes": piece})
            sent += len(piece)

    back = await behind()
    back.talk = flood
    front = await door(speech=[back.url])
    async with at(front.url, max_queue=1) as client:
        await client.recv()
        before = -1
        while sent != before:  # until it has stopped
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 64 << 20  # two hops of kernel buffers
        for _ in range(sent // len(piece) + 1):
            assert await client.recv() == piece
        await until(lambda: sent > before)  # and it goes on
        client.transport.abort()


async def test_a_slow_backend_slows_the_client(behind: Any, door: Any) -> None:
    go, got = asyncio.Event(), 0

    async def sleepy(receive: Any, _send: Any) -> None:
        nonlocal got
        await go.wait()
        while (await receive())["type"] == "websocket.receive":
            got += 1

    back = await behind()
    back.talk = sleepy
    front = await door(speech=[back.url])
    async with at(front.url, write_limit=1) as client:
        count = 0

        async def send() -> None:
            nonlocal count
            while count < 500:
                await client.send(bytes(1 << 18))
                count += 1

        sending = asyncio.create_task(send())
        before = -1
        while count != before:
            before = count
            await asyncio.sleep(0.2)
        assert count < 200
        go.set()
        await sending
    await until(lambda: got == 500)


def _accepted(request: Any) -> bytes:
    """Return a handshake's answer, as a server writes it by hand."""
    seed = request.all("sec-websocket-key")[0] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    token = base64.b64encode(hashlib.sha1(seed.encode()).digest())  # noqa: S324  RFC 6455
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-accept: " + token + b"\r\n\r\n"
    )
