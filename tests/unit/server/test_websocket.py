"""WebSockets in the shell on a real uvicorn: refusals, slots, limits, errors, the end."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import REGISTRY
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from services.errors import (
    AuthenticationError,
    BackendError,
    DeadlineError,
    EngineError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    TooLargeError,
    UnavailableError,
)
from services.server import websocket
from services.server.admission import Limits
from services.server.serving import Readiness, RoleApp
from services.server.shell import Shell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

LIMIT_BYTES = 1000
PATH = "/v1/echo"
SMALL = Limits(slots=1, queue=1, deadline_s=30)


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield


async def echo(_scope: Any, receive: Any, send: Any) -> None:
    """Repeat every message until the client leaves."""
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


def shell(socket: Any = echo, *, limits: Limits = SMALL, **fields: Any) -> Shell:
    return Shell(
        RoleApp(
            role="sockets",
            handlers={("POST", "/v1/work"): echo},
            sockets={PATH: socket},
            limits=limits,
            body_limit_bytes=LIMIT_BYTES,
            readiness=lambda: Readiness("ready", {}),
            lifespan=nothing,
            **fields,
        )
    )


def at(url: str, path: str = PATH, **options: Any) -> connect:
    return connect(url.replace("http", "ws") + path, proxy=None, **options)


def fault(refused: InvalidStatus) -> tuple[int, str | None]:
    error = json.loads(bytes(refused.response.body))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert refused.response.headers["x-request-id"]
    return refused.response.status_code, error["code"]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a state of the server that has no event, for at most a second."""
    async with asyncio.timeout(1):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


def counted(status: int, path: str = PATH) -> float:
    labels = {"role": "sockets", "path": path, "status": str(status)}
    return REGISTRY.get_sample_value("bentovox_requests_total", labels) or 0.0


async def test_text_and_bytes_go_both_ways(serve: Any) -> None:
    async with at(await serve(shell())) as client:
        for said in ("hällo", b"\x00\xff", "", "x" * LIMIT_BYTES):
            await client.send(said)
            assert await client.recv() == said


async def test_the_request_id_is_the_clients_own_where_it_is_safe(serve: Any) -> None:
    url = await serve(shell())
    async with at(url, additional_headers={"x-request-id": "mine-1"}) as client:
        assert client.response.headers.get_all("x-request-id") == ["mine-1"]
    async with at(url, additional_headers={"x-request-id": "a b"}) as client:
        assert client.response.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("path", ["/v1/none", "/v1/work", "/livez"])
async def test_a_path_without_a_websocket_is_404_in_the_handshake(serve: Any, path: str) -> None:
    before = counted(404, "other")
    with pytest.raises(InvalidStatus) as refused:
        await at(await serve(shell()), path)
    assert fault(refused.value) == (404, "unknown_url")
    assert counted(404, "other") == before + 1


async def test_a_refusal_is_no_error_in_the_servers_log(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidStatus):
        await at(await serve(shell()), "/v1/none")
    await asyncio.sleep(0)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_the_guard_refuses_in_the_handshake(serve: Any) -> None:
    def guard(_scope: Any) -> None:
        raise AuthenticationError("no key")

    with pytest.raises(InvalidStatus) as refused:
        await at(await serve(shell(guard=guard)))
    assert fault(refused.value) == (401, "invalid_api_key")


async def test_an_error_before_accept_is_an_http_answer(serve: Any) -> None:
    async def unready(_scope: Any, _receive: Any, _send: Any) -> None:
        raise UnavailableError("not yet", retry_after_s=2)

    with pytest.raises(InvalidStatus) as refused:
        await at(await serve(shell(unready)))
    assert fault(refused.value)[0] == 503
    assert refused.value.response.headers["retry-after"] == "2"


@pytest.mark.parametrize("socket", ["returns", "fails"])
async def test_an_application_that_answers_nothing_is_500(serve: Any, socket: str) -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        if socket == "fails":
            raise KeyError("bug")

    with pytest.raises(InvalidStatus) as refused:
        await at(await serve(shell(app)))
    assert fault(refused.value) == (500, "internal_error")


@pytest.mark.parametrize(
    ("error", "close"),
    [
        (InvalidRequestError("wrong", param="voice", code="odd"), 1008),
        (NotFoundError("none"), 1008),
        (TooLargeError("long"), 1009),
        (OverloadedError("full"), 1013),
        (UnavailableError("gone"), 1013),
        (DeadlineError("late"), 3008),
        (EngineError("broke", code="engine_failed"), 1011),
        (BackendError("broke"), 1011),
        (KeyError("bug"), 1011),
    ],
)
async def test_an_error_after_accept_is_an_event_and_a_close_code(
    serve: Any, error: Exception, close: int
) -> None:
    async def failing(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        raise error

    async with at(await serve(shell(failing))) as client:
        event = json.loads(await client.recv())
        assert event["type"] == "error"
        assert event["message"] == event["error"]["message"]
        assert set(event["error"]) == {"message", "type", "param", "code"}
        assert "bug" not in event["message"]
        with pytest.raises(ConnectionClosed):
            await client.recv()
    assert client.close_code == close
    assert client.close_reason == event["error"]["code"]


# Slots


async def test_none_is_taken_while_the_role_is_full(serve: Any) -> None:
    app = shell(limits=Limits(slots=1, queue=0, deadline_s=30))
    url = await serve(app)
    refused_before = REGISTRY.get_sample_value("bentovox_rejected_total", {"role": "sockets"}) or 0
    async with at(url) as idle:
        assert app.admission.in_use == 0
        await app.admission.acquire()
        with pytest.raises(InvalidStatus) as refused:
            await at(url)
        assert fault(refused.value) == (429, "rate_limit_exceeded")
        assert int(refused.value.response.headers["retry-after-ms"]) > 0
        assert refused.value.response.headers["x-ratelimit-limit-requests"] == "1"
        await idle.send("still here")
        assert await idle.recv() == "still here"
    refused_now = REGISTRY.get_sample_value("bentovox_rejected_total", {"role": "sockets"})
    assert refused_now == refused_before + 1


async def working(scope: Any, receive: Any, send: Any) -> None:
    """Hold a slot from each message to the next."""
    await send({"type": "websocket.accept"})
    while (await receive())["type"] == "websocket.receive":
        async with scope["bentovox.slot"]():
            await send({"type": "websocket.send", "text": "at work"})
            await receive()


async def test_other_connections_hold_a_slot_only_while_they_work(serve: Any) -> None:
    app = shell(working)
    url = await serve(app)
    async with at(url) as first, at(url) as second, at(url):
        assert app.admission.in_use == 0
        await first.send("go")
        assert await first.recv() == "at work"
        await second.send("go")
        await until(lambda: app.admission.waiting == 1)
        with pytest.raises(InvalidStatus) as refused:  # slot and queue are taken
            await at(url)
        assert fault(refused.value)[0] == 429
        await first.send("enough")
        assert await second.recv() == "at work"
    await until(lambda: (app.admission.in_use, app.open_sockets) == (0, 0))


async def test_past_the_queue_it_is_an_event_and_1013(serve: Any) -> None:
    app = shell(working, limits=Limits(1, 0, 30))
    url = await serve(app)
    async with at(url) as first, at(url) as second:
        await first.send("go")
        assert await first.recv() == "at work"
        await second.send("go")
        assert json.loads(await second.recv())["error"]["code"] == "rate_limit_exceeded"
        await second.wait_closed()
        assert second.close_code == 1013


async def test_connections_without_a_slot_are_bounded(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "OPEN_LIMIT", 1)
    app = shell()
    url = await serve(app)
    async with at(url):
        with pytest.raises(InvalidStatus) as refused:
            await at(url)
        assert fault(refused.value)[0] == 429
    await until(lambda: app.open_sockets == 0)


# Bounds


async def test_a_message_over_the_limit_closes_with_1009(serve: Any) -> None:
    async with at(await serve(shell())) as client:
        await client.send("x" * (LIMIT_BYTES + 1))
        await client.wait_closed()
    assert client.close_code == 1009


async def test_nothing_is_compressed_even_if_the_client_offers_it(serve: Any) -> None:
    async with at(await serve(shell())) as client:
        assert "sec-websocket-extensions" not in client.response.headers
        await client.send("a" * 500)
        assert await client.recv() == "a" * 500


async def test_bytes_that_are_no_text_close_with_1007(serve: Any) -> None:
    async with at(await serve(shell())) as client:
        await client.send(b"\xff\xfe", text=True)
        await client.wait_closed()
    assert client.close_code == 1007


class Flood:
    """Sends endlessly; `sent` counts bytes."""

    def __init__(self) -> None:
        self.sent = 0
        self.ended = False

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "bytes": bytes(1 << 16)})
                self.sent += 1 << 16
                await asyncio.sleep(0)
        finally:
            self.ended = True


async def test_a_client_that_takes_nothing_is_dropped_and_holds_little(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "STALLED_S", 0.2)
    flood = Flood()
    url = await serve(shell(flood))
    async with at(url, max_queue=1, close_timeout=0.1):
        async with asyncio.timeout(5):
            while not flood.ended:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert flood.sent < 32 << 20  # what the kernel's buffers took


async def test_a_client_that_vanishes_ends_the_application(serve: Any) -> None:
    flood = Flood()
    client = await at(await serve(shell(flood)))
    await client.recv()
    client.transport.abort()
    await until(lambda: flood.ended)


async def test_connections_are_counted_by_path_and_status(serve: Any) -> None:
    before = counted(101)
    async with at(await serve(shell())) as client:
        await client.send("one")
        await client.recv()
    await until(lambda: counted(101) == before + 1)


# Shutdown


class Watching(Shell):
    """A shell that keeps uvicorn's protocol of each WebSocket, to shut it down as uvicorn does."""

    def __init__(self, app: RoleApp) -> None:
        super().__init__(app)
        self.seen: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(send.__self__)
        await super().__call__(scope, receive, send)


async def test_at_shutdown_the_application_may_finish_and_1012_follows(serve: Any) -> None:
    async def finishing(scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await scope["bentovox.draining"].wait()
        await send({"type": "websocket.send", "text": "the last word"})

    app = Watching(shell(finishing).app)
    async with at(await serve(app)) as client:
        app.seen[0].shutdown()
        assert await client.recv() == "the last word"
        await client.wait_closed()
    assert client.close_code == 1012


async def test_who_does_not_finish_is_cut_off(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "DRAIN_S", 0.01)
    app = Watching(shell().app)
    async with at(await serve(app)) as client:
        app.seen[0].shutdown()
        await client.wait_closed()
    assert client.close_code == 1012


@pytest.mark.parametrize(("constant", "hello"), [("HELLO_S", False), ("IDLE_S", True)])
async def test_a_client_that_says_nothing_more_is_closed_in_words(
    serve: Any, monkeypatch: pytest.MonkeyPatch, constant: str, *, hello: bool
) -> None:
    monkeypatch.setattr(f"services.server.websocket.{constant}", 0.05)
    async with at(await serve(shell())) as client:
        if hello:
            await client.send("a")
            assert await client.recv() == "a"
        event = json.loads(await client.recv())
        assert event["error"]["code"] == "idle_timeout"
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert client.close_code == 3008


async def test_a_message_that_another_servers_parser_let_through_is_1009() -> None:
    sent: list[dict[str, Any]] = []
    messages = iter(
        [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "é" * 2000}]
    )

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": PATH, "headers": [], "query_string": b""}
    await shell()(scope, receive, send)
    assert [one["type"].partition(".")[2] for one in sent] == ["accept", "send", "close"]
    assert sent[-1]["code"] == 1009
