"""The shell on a real uvicorn, as a client sees it: ids, limits, errors, health."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client import REGISTRY

from services.errors import (
    AuthenticationError,
    EngineError,
    InvalidRequestError,
    OverloadedError,
    UnavailableError,
)
from services.server.admission import Limits
from services.server.body import FREE_BYTES
from services.server.serving import Readiness, RoleApp
from services.server.shell import Shell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

POST = frozenset({"POST"})
GET = frozenset({"GET", "HEAD"})
LIMIT_BYTES = 1000
ROOMY = Limits(slots=4, queue=4, deadline_s=30)


async def hello(_scope: Any, receive: Any, send: Any) -> None:
    """Read the body and answer how long it was."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await answer(send, 200, str(size).encode(), b"text/plain")


async def answer(send: Any, status: int, body: bytes, content_type: bytes) -> None:
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield


def shell(
    asgi: Any = hello, *, limits: Limits = ROOMY, status: str = "ready", **fields: Any
) -> Shell:
    fields = {"lifespan": nothing, "body_limit_bytes": LIMIT_BYTES, **fields}
    return Shell(
        RoleApp(
            role="test",
            handlers={
                ("POST", "/v1/work"): asgi,
                ("POST", "/v1/free"): asgi,
                ("GET", "/v1/items"): asgi,
                ("GET", "/v1/items/{}"): asgi,
                ("GET", "/v1/all/{*}"): asgi,
            },
            slotless=frozenset({"/v1/free"}),
            limits=limits,
            readiness=lambda: Readiness(status, {"engine": status}),
            **fields,
        )
    )


@pytest.fixture
async def client(
    serve: Callable[..., Awaitable[str]],
) -> AsyncIterator[Callable[..., Awaitable[httpx.AsyncClient]]]:
    """Return `await client(app)`: an HTTP client of the app behind uvicorn."""
    clients = []

    async def start(app: Any) -> httpx.AsyncClient:
        clients.append(httpx.AsyncClient(base_url=await serve(app), timeout=10))
        return clients[-1]

    yield start
    for one in clients:
        await one.aclose()


def fault(response: httpx.Response) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    return response.status_code, error["type"], error["code"]


async def raw(url: str, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    return reader, writer


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a state of the server that has no event, for at most a second."""
    async with asyncio.timeout(1):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


# Who may ask


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"origin": "https://evil.example"}, "origin_not_allowed"),
        ({"origin": "null"}, "origin_not_allowed"),
        ({"host": "rebound.example"}, "host_not_allowed"),
    ],
)
async def test_a_page_of_another_server_writes_nothing_to_any_role(
    client: Any, headers: dict[str, str], code: str
) -> None:
    http = await client(shell(never))
    for path in ("/v1/work", "/v1/free"):
        refused = await http.post(path, files={"file": b"x"}, headers=headers)
        assert fault(refused) == (403, "invalid_request_error", code)
    assert (await http.get("/livez", headers=headers)).status_code == 200


async def never(_scope: Any, _receive: Any, _send: Any) -> None:
    raise AssertionError


# Request ids and timing


async def test_a_request_id_is_made_where_none_is_given(client: Any) -> None:
    http = await client(shell())
    ids = [(await http.get("/v1/items")).headers["x-request-id"] for _ in range(2)]
    assert all(re.fullmatch(r"req_[0-9a-f]{32}", one) for one in ids)
    assert ids[0] != ids[1]


async def test_a_safe_request_id_is_kept(client: Any) -> None:
    http = await client(shell())
    response = await http.get("/v1/items", headers={"x-request-id": "mine-1.2_3"})
    assert response.headers.get_list("x-request-id") == ["mine-1.2_3"]


@pytest.mark.parametrize("given", ["a b", "x" * 129, "a;b", "<script>", "", "é"])
async def test_an_unsafe_request_id_is_replaced(client: Any, given: str) -> None:
    http = await client(shell())
    response = await http.get("/v1/items", headers={"x-request-id": given.encode("latin-1")})
    assert response.headers["x-request-id"].startswith("req_")


async def test_the_applications_own_id_server_and_date_give_way(client: Any) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"X-Request-Id", b"inner"), (b"Server", b"inner"), (b"date", b"inner")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    response = await (await client(shell(app))).get("/v1/items")
    assert "inner" not in str(response.headers)


async def test_processing_time_is_whole_milliseconds(client: Any) -> None:
    response = await (await client(shell())).get("/v1/items")
    assert response.headers["openai-processing-ms"].isdigit()


async def test_paths_that_take_a_slot_tell_the_rate_limit_and_others_do_not(client: Any) -> None:
    http = await client(shell())
    headers = (await http.post("/v1/work")).headers
    assert headers["x-ratelimit-limit-requests"] == "8"
    assert headers["x-ratelimit-remaining-requests"] == "7"
    assert headers["x-ratelimit-reset-requests"] == "0ms"
    assert "x-ratelimit-limit-requests" not in (await http.post("/v1/free")).headers
    assert "x-ratelimit-limit-requests" not in (await http.get("/v1/items")).headers


# Paths and methods


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/items/a/b", "/invocations", "/é"])
async def test_an_unknown_path_is_404(client: Any, path: str) -> None:
    response = await (await client(shell())).get(path)
    assert fault(response) == (404, "invalid_request_error", "unknown_url")


async def test_a_slash_at_the_end_is_no_other_path(client: Any) -> None:
    http = await client(shell())
    assert (await http.get("/v1/items/")).json() == (await http.get("/v1/items")).json()
    assert (await http.get("/readyz/")).status_code == 200


@pytest.mark.parametrize(
    "path", ["/v1/items/{}", "/v1/items/%7B%7D", "/v1/items/a%20b", "/v1/all/org/model"]
)
async def test_templates_match_one_segment_or_the_rest(client: Any, path: str) -> None:
    assert (await (await client(shell())).get(path)).status_code == 200


async def test_a_slash_in_escapes_is_no_way_past_the_table(client: Any) -> None:
    response = await (await client(shell())).get("/v1/items/a%2Fb")
    assert fault(response)[0] == 404


async def test_another_method_is_405_and_names_those_that_are_taken(client: Any) -> None:
    http = await client(shell())
    response = await http.delete("/v1/items")
    assert fault(response) == (405, "invalid_request_error", "method_not_allowed")
    assert "GET, HEAD" in response.json()["error"]["message"]
    assert response.headers["allow"] == "GET, HEAD"
    assert fault(await http.post("/v1/items/x"))[0] == 405


async def test_head_is_answered_without_a_body(client: Any) -> None:
    http = await client(shell())
    response = await http.head("/v1/items")
    assert (response.status_code, response.content) == (200, b"")
    assert (await http.head("/v1/none")).status_code == 404


# Bodies


async def test_a_body_up_to_the_limit_passes(client: Any) -> None:
    http = await client(shell())
    assert (await http.post("/v1/work", content=b"x" * LIMIT_BYTES)).text == str(LIMIT_BYTES)


async def test_a_longer_body_is_413_before_it_is_read(client: Any) -> None:
    async def never(_scope: Any, _receive: Any, _send: Any) -> None:
        pytest.fail("the application was called")

    response = await (await client(shell(never))).post("/v1/work", content=b"x" * 1001)
    assert fault(response) == (413, "invalid_request_error", "request_too_large")
    assert "1000 bytes" in response.json()["error"]["message"]


async def pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * 100


async def test_a_longer_body_in_chunks_is_413(client: Any) -> None:
    http = await client(shell())
    assert (await http.post("/v1/work", content=pieces(10))).text == "1000"
    assert fault(await http.post("/v1/work", content=pieces(11)))[0] == 413


async def test_an_application_that_swallows_the_refusal_does_not_hide_it(client: Any) -> None:
    async def swallowing(scope: Any, receive: Any, send: Any) -> None:
        try:
            await hello(scope, receive, send)
        except Exception:  # noqa: BLE001  as FastAPI does
            await answer(send, 400, b'{"detail":"There was an error parsing the body"}', b"a/b")

    response = await (await client(shell(swallowing))).post("/v1/work", content=pieces(11))
    assert fault(response)[0] == 413


# Errors


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InvalidRequestError("bad", param="x"), (400, "invalid_request_error", None)),
        (AuthenticationError("who"), (401, "invalid_request_error", "invalid_api_key")),
        (EngineError("broke"), (500, "server_error", "engine_error")),
        (UnavailableError("later"), (503, "server_error", "service_unavailable")),
    ],
)
async def test_a_refusal_becomes_openais_error(
    client: Any, error: Exception, expected: tuple[int, str, str | None]
) -> None:
    async def refusing(_scope: Any, _receive: Any, _send: Any) -> None:
        raise error

    assert fault(await (await client(shell(refusing))).post("/v1/work")) == expected


async def test_a_bug_is_500_without_its_words(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_scope: Any, _receive: Any, _send: Any) -> None:
        raise KeyError("secret")

    with caplog.at_level(logging.ERROR, "bentovox"):
        response = await (await client(shell(broken))).post("/v1/work")
    assert fault(response) == (500, "server_error", "internal_error")
    assert "secret" not in response.text
    assert "request failed: POST '/v1/work'" in caplog.text


@pytest.mark.parametrize(
    ("status", "body", "message", "code"),
    [
        (400, b'{"error":{"message":"too long","code":400}}', "too long", None),
        (422, b'{"detail":"Field required"}', "Field required", None),
        (429, b'{"error":"Too many requests"}', "Too many requests", "rate_limit_exceeded"),
        (404, b"Not Found", "Not Found", "not_found"),
    ],
)
async def test_a_foreign_error_is_normalised(
    client: Any, status: int, body: bytes, message: str, code: str | None
) -> None:
    async def foreign(_scope: Any, _receive: Any, send: Any) -> None:
        await answer(send, status, body, b"text/plain; charset=utf-8")

    response = await (await client(shell(foreign))).post("/v1/work")
    assert fault(response)[::2] == (status, code)
    assert response.json()["error"]["message"] == message
    assert int(response.headers["content-length"]) == len(response.content)


async def test_a_foreign_error_in_pieces_keeps_its_other_headers(client: Any) -> None:
    async def foreign(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"retry-after", b"7"), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        for piece in (b'{"error":', b'{"message":"wait"}}'):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    response = await (await client(shell(foreign))).post("/v1/work")
    assert response.json()["error"]["message"] == "wait"
    assert response.headers["retry-after"] == "7"


async def test_a_compressed_foreign_error_is_not_sent_on_as_if_it_were_plain(client: Any) -> None:
    async def foreign(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"content-encoding", b"gzip"), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        await send({"type": "http.response.body", "body": b"\x1f\x8b\x08 not for our eyes"})

    response = await (await client(shell(foreign))).post("/v1/work")
    assert "content-encoding" not in response.headers
    assert fault(response)[0] == 400
    assert response.json()["error"]["message"] == "Bad Request"


@pytest.mark.parametrize("error", [EngineError("broke"), KeyError("bug")])
async def test_an_error_after_the_start_closes_the_connection_without_the_last_chunk(
    serve: Any, error: Exception
) -> None:
    async def breaking(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise error

    request = b"POST /v1/work HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
    reader, writer = await raw(await serve(shell(breaking)), request)
    data = await reader.read()  # to the end: the server has closed
    writer.close()
    assert data.startswith(b"HTTP/1.1 200 OK")
    assert data.endswith(b"\r\n\r\n4\r\nhalf\r\n")


# Admission


class Gate:
    """An application whose requests run until the test releases them."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.at_work = 0
        self.bodies: list[bytes] = []

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        self.at_work += 1
        try:
            self.bodies.append((await receive()).get("body", b""))
            await self.open.wait()
        finally:
            self.at_work -= 1
        await answer(send, 200, b"done", b"text/plain")


async def test_past_slots_and_queue_it_is_429_with_retry_after(client: Any) -> None:
    gate = Gate()
    app = shell(gate, limits=Limits(1, 1, 30))
    http = await client(app)
    taken = [asyncio.create_task(http.post("/v1/work", content=b"kept")) for _ in range(2)]
    await until(lambda: app.admission.waiting == 1)
    refused = await http.post("/v1/work")
    assert fault(refused) == (429, "requests", "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) >= 1
    assert int(refused.headers["retry-after-ms"]) >= 50
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"] != "0ms"
    assert gate.at_work == 1
    gate.open.set()
    assert [(await one).status_code for one in taken] == [200, 200]
    assert gate.bodies[:2] == [b"kept", b"kept"]


async def test_the_time_aside_is_no_hold_of_a_slot(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside_s = 0.05

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        async with scope["bentovox.aside"]():
            await asyncio.sleep(aside_s)
        await hello(scope, receive, send)

    app = shell(waits)
    holds_s: list[float] = []
    monkeypatch.setattr(app.admission, "note_hold", holds_s.append)
    http = await client(app)
    began = time.monotonic()
    await http.post("/v1/work")
    (hold_s,) = holds_s
    assert 0 <= hold_s <= time.monotonic() - began - aside_s


async def test_the_deadline_in_the_queue_is_429(client: Any) -> None:
    gate = Gate()
    app = shell(gate, limits=Limits(1, 1, 0.02))
    http = await client(app)
    taken = asyncio.create_task(http.post("/v1/work"))
    await until(lambda: gate.at_work == 1)
    assert fault(await http.post("/v1/work"))[0] == 429
    gate.open.set()
    await taken


async def test_a_client_that_hangs_up_in_the_queue_frees_its_place_at_once(serve: Any) -> None:
    gate = Gate()
    app = shell(gate, limits=Limits(1, 1, 30))
    url = await serve(app)
    request = b"POST /v1/work HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi"
    _, first = await raw(url, request)
    await until(lambda: gate.at_work == 1)
    _, second = await raw(url, request)
    await until(lambda: app.admission.waiting == 1)
    second.transport.abort()
    await until(lambda: app.admission.waiting == 0)
    assert (app.admission.in_use, gate.at_work) == (1, 1)
    gate.open.set()
    await until(lambda: app.admission.in_use == 0)
    first.close()


async def test_a_client_that_is_slow_to_ask_holds_no_slot_and_is_refused(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = shell(limits=Limits(1, 0, 30))
    url = await serve(app)
    idle = [
        await raw(url, b"POST /v1/work HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nx")
        for _ in range(5)
    ]
    async with httpx.AsyncClient(base_url=url) as http:
        assert (await http.post("/v1/work", content=b"abc")).text == "3"
    assert app.admission.in_use == 0
    monkeypatch.setattr("services.server.body.SILENCE_S", 0.05)
    reader, writer = await raw(
        url, b"POST /v1/work HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nx"
    )
    answer = await reader.read()  # to the end: the connection is closed
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code": "request_timeout"' in answer
    for _, one in [*idle, (reader, writer)]:
        one.close()


async def test_a_body_over_the_limit_is_refused_in_whatever_pieces_it_comes(serve: Any) -> None:
    app = shell()
    reader, writer = await raw(
        await serve(app), b"POST /v1/work HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    writer.write(b"3e9\r\n" + b"x" * 1001 + b"\r\n")
    assert b" 413 " in await reader.readline()
    assert app.admission.in_use == 0
    writer.close()


async def test_all_bodies_together_are_bounded_and_small_ones_still_served(serve: Any) -> None:
    size = 3 * FREE_BYTES
    gate = Gate()
    app = shell(gate, body_limit_bytes=size, body_memory_bytes=3 * FREE_BYTES)
    async with httpx.AsyncClient(base_url=await serve(app)) as http:
        first = asyncio.create_task(http.post("/v1/work", content=b"x" * size))
        await until(lambda: gate.at_work == 1)
        refused = await http.post("/v1/work", content=b"x" * size)
        assert fault(refused)[0] == 429
        assert "retry-after" in refused.headers
        small = asyncio.create_task(http.post("/v1/work", content=b"x" * 1000))
        await until(lambda: gate.at_work == 2)
        gate.open.set()
        assert [answer.status_code for answer in await asyncio.gather(first, small)] == [200, 200]
    assert app.held.bytes == 0


async def test_a_request_that_costs_more_takes_more_slots(serve: Any) -> None:
    heavy, gate = asyncio.Event(), Gate()

    async def work(scope: Any, receive: Any, send: Any) -> None:
        if scope["query_string"] == b"heavy":
            await scope["bentovox.weigh"](100)
            heavy.set()
        await gate(scope, receive, send)

    app = shell(work, limits=Limits(4, 5, 30))
    async with httpx.AsyncClient(base_url=await serve(app)) as http:
        light = [asyncio.create_task(http.post("/v1/work")) for _ in range(3)]
        await until(lambda: gate.at_work == 3)
        costly = asyncio.create_task(http.post("/v1/work?heavy"))
        await until(lambda: app.admission.waiting == 1)
        assert not heavy.is_set()  # it takes two, and one is free
        gate.open.set()
        answers = await asyncio.gather(*light, costly)
    assert {answer.status_code for answer in answers} == {200}
    assert app.admission.in_use == 0


async def test_a_slot_granted_to_a_request_that_is_cancelled_is_not_lost() -> None:
    app = shell(Gate(), limits=Limits(1, 1, 30))
    await app.admission.acquire()
    scope = {"type": "http", "method": "POST", "path": "/v1/work", "headers": []}
    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def silent() -> Any:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    async def send(_message: Any) -> None:
        pytest.fail("there is nobody to answer")

    waiting = asyncio.create_task(app(scope, silent, send))
    await until(lambda: app.admission.waiting == 1)
    app.admission.release()  # to the request that waits,
    await asyncio.sleep(0)
    waiting.cancel()  # which is cancelled before it goes on
    await asyncio.gather(waiting, return_exceptions=True)
    assert app.admission.in_use == 0


async def test_an_overload_of_the_application_itself_is_429_too(client: Any) -> None:
    async def full(_scope: Any, _receive: Any, _send: Any) -> None:
        raise OverloadedError("full", retry_after_s=3)

    response = await (await client(shell(full))).post("/v1/work")
    assert (fault(response)[0], response.headers["retry-after"]) == (429, "3")


# Compressed bodies


@pytest.mark.parametrize("content", [b"", b"a", b"abc" * 300])
@pytest.mark.parametrize("members", [1, 2, 30])
async def test_a_body_in_gzip_is_read(client: Any, content: bytes, members: int) -> None:
    headers = {"content-encoding": "gzip"}
    http = await client(shell())
    for path in ("/v1/work", "/v1/free"):
        packed = gzip.compress(b"") * (members - 1) + gzip.compress(content)
        answer = await http.post(path, content=packed, headers=headers)
        assert answer.text == str(len(content))


@pytest.mark.parametrize(
    ("coding", "content", "expected"),
    [
        ("gzip", gzip.compress(b"x" * 1001), (413, "request_too_large")),
        ("gzip", gzip.compress(bytes(100 << 20)), (413, "request_too_large")),
        ("gzip", b"plain", (400, "invalid_encoding")),
        ("gzip", gzip.compress(b"abc")[:-1], (400, "invalid_encoding")),
        ("gzip", gzip.compress(b"", mtime=0)[:10] * 99, (400, "invalid_encoding")),
        ("gzip", gzip.compress(b"a") + b"more", (400, "invalid_encoding")),
        ("gzip", b"", (400, "invalid_encoding")),
        ("br", b"abc", (415, "unsupported_content_type")),
        ("gzip, gzip", b"abc", (415, "unsupported_content_type")),
    ],
)
async def test_a_body_that_is_not_whole_gzip_or_too_large_in_it_is_refused(
    client: Any, coding: str, content: bytes, expected: tuple[int, str]
) -> None:
    http = await client(shell(body_limit_bytes=max(LIMIT_BYTES, len(content))))
    headers = {"content-encoding": coding}
    refused = await http.post("/v1/work", content=content, headers=headers)
    assert (fault(refused)[0], fault(refused)[2]) == expected


# Health and metrics


@pytest.mark.parametrize(
    ("status", "livez", "readyz"),
    [
        ("ready", 200, 200),
        ("degraded", 200, 200),
        ("starting", 200, 503),
        ("draining", 200, 503),
        ("failed", 500, 503),
    ],
)
async def test_health_tells_life_from_readiness(
    client: Any, status: str, livez: int, readyz: int
) -> None:
    http = await client(shell(status=status))
    for path in ("/livez", "/healthz"):
        response = await http.get(path)
        assert (response.status_code, response.json()) == (livez, {"status": status})
    for path in ("/readyz", "/health"):
        ready = await http.get(path)
        assert ready.status_code == readyz
        assert ready.json() == {"status": status, "role": "test", "detail": {"engine": status}}
        assert (await http.head(path)).status_code == readyz


async def test_metrics_count_requests_by_template_and_status(client: Any) -> None:
    http = await client(shell())
    before = sample("bentovox_requests_total", path="/v1/items/{}", status="200")
    for name in ("a", "b"):
        await http.get(f"/v1/items/{name}")
    unknown = sample("bentovox_requests_total", path="other", status="404")
    await http.get("/secret-path")
    text = (await http.get("/metrics")).text
    assert sample("bentovox_requests_total", path="/v1/items/{}", status="200") == before + 2
    assert sample("bentovox_requests_total", path="other", status="404") == unknown + 1
    assert "secret-path" not in text
    assert "bentovox_first_byte_seconds_bucket" in text


async def test_slots_and_queue_are_shown(client: Any) -> None:
    gate = Gate()
    app = shell(gate, limits=Limits(1, 1, 30))
    http = await client(app)
    refused = sample("bentovox_rejected_total")
    taken = [asyncio.create_task(http.post("/v1/work")) for _ in range(2)]
    await until(lambda: app.admission.waiting == 1)
    assert (sample("bentovox_slots_in_use"), sample("bentovox_queue_length")) == (1, 1)
    await http.post("/v1/work")
    assert sample("bentovox_rejected_total") == refused + 1
    gate.open.set()
    await asyncio.gather(*taken)
    assert (sample("bentovox_slots_in_use"), sample("bentovox_queue_length")) == (0, 0)


def sample(name: str, **labels: str) -> float:
    value = REGISTRY.get_sample_value(name, {"role": "test", **labels})
    return value or 0.0


async def test_one_line_a_request_is_logged_with_its_status_and_without_its_query(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    http = await client(shell())
    with caplog.at_level(logging.INFO, "bentovox.access"):
        await http.get("/v1/items?key=secret")
        await http.get("/livez")
    assert len(caplog.messages) == 1
    assert re.fullmatch(r"GET /v1/items 200 [\d.]+ms", caplog.messages[0])


# Guard, WebSocket, lifespan


async def test_the_guard_sees_known_paths_and_not_health(client: Any) -> None:
    def guard(scope: Any) -> None:
        raise AuthenticationError(f"not to {scope['bentovox.route']}")

    http = await client(shell(guard=guard))
    response = await http.get("/v1/items/x")
    assert fault(response)[0] == 401
    assert "/v1/items/{}" in response.json()["error"]["message"]
    assert (await http.get("/livez")).status_code == 200


async def test_a_websocket_is_refused_in_the_handshake(serve: Any) -> None:
    handshake = (
        b"GET /v1/none HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    reader, writer = await raw(await serve(shell()), handshake)
    assert b" 404 " in await reader.readline()
    writer.close()


async def test_a_role_that_cannot_start_fails_its_lifespan() -> None:
    @asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        raise UnavailableError("no model")
        yield

    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    await shell(lifespan=failing)({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": "no model"}]


async def test_the_lifespan_is_entered_and_left() -> None:
    seen = []

    @asynccontextmanager
    async def noting() -> AsyncIterator[None]:
        seen.append("in")
        yield
        seen.append("out")

    inbox: asyncio.Queue[Any] = asyncio.Queue()
    outbox: asyncio.Queue[Any] = asyncio.Queue()
    running = asyncio.create_task(
        shell(lifespan=noting)({"type": "lifespan"}, inbox.get, outbox.put)
    )
    inbox.put_nowait({"type": "lifespan.startup"})
    assert (await outbox.get())["type"] == "lifespan.startup.complete"
    assert seen == ["in"]
    inbox.put_nowait({"type": "lifespan.shutdown"})
    assert (await outbox.get())["type"] == "lifespan.shutdown.complete"
    await running
    assert seen == ["in", "out"]


def test_health_is_json_that_says_no_more_than_it_must() -> None:
    body = asyncio.run(shell().health("/livez"))
    assert body is not None
    assert json.loads(body[2]) == {"status": "ready"}
