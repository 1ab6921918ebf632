"""The gateway between a real client and a raw backend: bytes, framing, back-pressure, faults."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from pydantic import SecretStr

from services.gateway import proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

CHAT = "/v1/chat/completions"
BODY = b'{"model": "m", "messages": []}'
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: door\r\ncontent-length: 2\r\n\r\n{}"


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=10) as client:
        yield client


def fault(response: httpx.Response) -> tuple[int, str | None]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    return response.status_code, error["code"]


async def until(condition: Callable[[], bool], seconds: float = 1) -> None:
    """Wait for a state that has no event, for at most a second."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def raw(url: str, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = url.removeprefix("http://").split(":")
    reader, writer_ = await asyncio.open_connection(host, int(port))
    writer_.write(request)
    return reader, writer_


# The request


async def test_the_request_arrives_as_it_was_sent(backend: Any, door: Any, http: Any) -> None:
    chat = await backend()
    front = await door(chat=[chat.url])
    response = await http.post(
        f"{front.url}{CHAT}?a=%20b&c",
        content=BODY,
        headers={"content-type": "application/json", "x-stainless-lang": "python"},
    )
    assert response.content == b"hello"
    (request,) = chat.requests
    assert request.line == f"POST {CHAT}?a=%20b&c HTTP/1.1"
    assert request.body == BODY
    assert request.all("content-type") == ["application/json"]
    assert request.all("x-stainless-lang") == ["python"]
    assert request.all("content-length") == [str(len(BODY))]
    assert request.all("host") == [chat.url.removeprefix("http://")]
    assert request.all("x-request-id") == [response.headers["x-request-id"]]


async def test_a_role_answers_while_another_has_not_started_yet(
    backend: Any, door: Any, http: Any
) -> None:
    chat, speech = await backend(), await backend()
    chat.ready = False
    front = await door(chat=[chat.url], speech=[speech.url])
    assert (await http.get(f"{front.url}/readyz")).json()["status"] == "starting"
    json = {"content-type": "application/json"}
    spoken = await http.post(f"{front.url}/v1/audio/speech", content=BODY, headers=json)
    assert spoken.content == b"hello"
    refused = await http.post(front.url + CHAT, content=BODY, headers=json)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")


async def test_what_is_for_this_hop_only_stays_here(backend: Any, door: Any, http: Any) -> None:
    chat = await backend()
    front = await door(chat=[chat.url])
    headers = {
        "authorization": "Bearer sk-secret",
        "proxy-authorization": "Basic secret",
        "te": "trailers",
        "connection": "keep-alive, X-Mine",
        "x-mine": "secret",
        "x-api-key": "secret",
        "origin": front.url,
        "x-forwarded-for": "1.2.3.4",
        "x-other": "goes on",
    }
    await http.post(front.url + CHAT, content=BODY, headers=headers)
    names = {name for name, _ in chat.requests[0].headers}
    assert not names & (headers.keys() - {"x-other"})
    assert "x-other" in names


async def parts(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
async def test_a_large_request_streams_through_in_both_framings(
    backend: Any, door: Any, http: Any, framing: str
) -> None:
    chat = await backend()
    front = await door(chat=[chat.url], body_limit_mib=8)
    data = bytes(range(256)) * (4 << 12)
    content = data if framing == "content-length" else parts(data[:1], data[1:7], data[7:])
    assert (await http.post(front.url + CHAT, content=content)).status_code == 200
    assert chat.requests[0].body == data


async def test_a_request_over_the_limit_is_413_and_the_backend_stays(
    backend: Any, door: Any, http: Any
) -> None:
    chat = await backend()
    front = await door(chat=[chat.url], body_limit_mib=0.5)
    for content in (b"x" * (1 << 20), parts(b"x" * (1 << 18), b"x" * (1 << 20))):
        assert fault(await http.post(front.url + CHAT, content=content))[0] == 413
    assert (await http.post(front.url + CHAT, content=BODY)).status_code == 200
    assert front.pools.by_role["chat"].ready


async def test_a_client_that_hangs_up_while_it_sends_leaves_nothing_behind(
    backend: Any, door: Any
) -> None:
    chat = await backend()
    front = await door(chat=[chat.url])
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    _, client = await raw(front.url, head)
    client.write(2 * (b"10000\r\n" + b"x" * 65536 + b"\r\n"))
    await client.drain()
    await until(lambda: front.shell.held.bytes > 0)
    assert front.shell.admission.in_use == 0  # it has not asked for anything yet
    client.transport.abort()
    await until(lambda: front.shell.held.bytes == 0)
    assert front.pools.by_role["chat"].ready


# The answer


async def test_the_answer_comes_back_as_it_was_sent(backend: Any, door: Any, http: Any) -> None:
    chat = await backend()
    chat.says(
        b"HTTP/1.1 201 Created\r\ncontent-type: text/x\r\nX-Mine: 1\r\nset-cookie: a\r\n"
        b"set-cookie: b\r\nconnection: keep-alive, x-hop\r\nx-hop: no\r\nkeep-alive: timeout=5\r\n"
        b"server: inner\r\nproxy-authenticate: no\r\nupgrade: h2c\r\nx-request-id: inner\r\n"
        b"openai-processing-ms: 999999\r\ncontent-length: 5\r\n\r\nhello"
    )
    front = await door(chat=[chat.url])
    response = await http.post(front.url + CHAT, content=BODY)
    assert (response.status_code, response.content) == (201, b"hello")
    assert response.headers["x-mine"] == "1"
    assert response.headers.get_list("set-cookie") == ["a", "b"]
    for name in ("x-hop", "keep-alive", "proxy-authenticate", "upgrade", "transfer-encoding"):
        assert name not in response.headers
    assert "inner" not in str(response.headers)
    assert response.headers.get_list("openai-processing-ms") != ["999999"]
    assert len(response.headers.get_list("openai-processing-ms")) == 1


FRAMINGS = ["content-length", "chunked", "until-close"]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=300), max_size=12),
    cuts=st.lists(st.integers(1, 400), min_size=1, max_size=30),
    framing=st.sampled_from(FRAMINGS),
)
def test_any_chunking_of_the_backends_body_arrives_identical(
    relayed: Callable[[bytes, list[int]], bytes],
    pieces: list[bytes],
    cuts: list[int],
    framing: str,
) -> None:
    """`pieces` are the chunks of the body; `cuts` the sizes in which the bytes reach the socket."""
    whole = b"".join(pieces)
    if framing == "chunked":
        head = b"transfer-encoding: chunked\r\n\r\n"
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    elif framing == "content-length":
        head, body = b"content-length: %d\r\n\r\n" % len(whole), whole
    else:
        head, body = b"connection: close\r\n\r\n", whole
    assert relayed(b"HTTP/1.1 200 OK\r\n" + head + body, cuts) == whole


@pytest.fixture
async def relayed(backend: Any, door: Any, http: Any) -> Callable[[bytes, list[int]], bytes]:
    """Return a function that sends an answer through the front door in pieces."""
    loop = asyncio.get_running_loop()
    started: list[Any] = []

    async def go(data: bytes, cuts: list[int]) -> bytes:
        if not started:
            chat = await backend()
            started.extend([chat, await door(chat=[chat.url])])
        chat, front = started

        async def answer(_request: Any, writer_: asyncio.StreamWriter) -> None:
            left, turn = data, 0
            while left:
                size = cuts[turn % len(cuts)]
                writer_.write(left[:size])
                await writer_.drain()
                await asyncio.sleep(0)
                left, turn = left[size:], turn + 1
            if b"connection: close" in data.partition(b"\r\n\r\n")[0]:
                writer_.close()

        chat.answer = answer
        response = await http.post(front.url + CHAT, content=BODY)
        assert response.status_code == 200
        content: bytes = response.content
        return content

    return lambda data, cuts: loop.run_until_complete(go(data, cuts))


def event_stream(count: int) -> bytes:
    events = [b"data: %d\n\n" % number for number in range(count)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    )


async def test_each_piece_leaves_before_the_next_is_made(
    backend: Any, door: Any, http: Any
) -> None:
    chat = await backend()
    front = await door(chat=[chat.url])
    gates = [asyncio.Event() for _ in range(3)]

    async def answer(_request: Any, writer_: asyncio.StreamWriter) -> None:
        writer_.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for number, gate in enumerate(gates):
            writer_.write(b"1\r\n%d\r\n" % number)
            await gate.wait()
        writer_.write(b"0\r\n\r\n")

    chat.answer = answer
    async with http.stream("POST", front.url + CHAT, content=BODY) as response:
        pieces = response.aiter_raw()
        for number, gate in enumerate(gates):
            assert await anext(pieces) == b"%d" % number
            gate.set()
        assert [piece async for piece in pieces] == []


async def test_what_comes_together_leaves_together(backend: Any, door: Any) -> None:
    chat = await backend()
    chat.says(event_stream(3))
    front = await door(chat=[chat.url])
    host, port = front.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (CHAT.encode(), len(BODY), BODY)
    )
    await reader.readuntil(b"\r\n\r\n")
    # One chunk, and the end with it: each write wakes the client.
    events = b"".join(b"data: %d\n\n" % number for number in range(3))
    end = await reader.readuntil(b"0\r\n\r\n")
    assert end == b"%x\r\n%b\r\n0\r\n\r\n" % (len(events), events)
    writer.close()


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the direct writers that the front door makes, as it makes them."""
    made: list[Any] = []
    direct_writer = proxy.direct_writer

    def noting(*arguments: Any) -> Any:
        write = direct_writer(*arguments)
        made.extend([write] if write else [])
        return write

    monkeypatch.setattr(proxy, "direct_writer", noting)
    return made


async def test_under_uvicorn_a_stream_goes_straight_to_the_transport(
    backend: Any, door: Any, http: Any, writers: list[Any]
) -> None:
    chat = await backend()
    chat.says(event_stream(50))
    front = await door(chat=[chat.url])
    response = await http.post(front.url + CHAT, content=BODY)
    assert response.text == "".join(f"data: {number}\n\n" for number in range(50))
    assert len(writers) == 1


async def test_elsewhere_it_goes_through_send(
    backend: Any, door: Any, http: Any, writers: list[Any]
) -> None:
    chat = await backend()
    chat.says(event_stream(50))

    def another_server(app: Any) -> Any:
        async def asgi(scope: Any, receive: Any, send: Any) -> None:
            async def wrapped(message: Any) -> None:
                await send(message)

            await app(scope, receive, wrapped)

        return asgi

    front = await door(chat=[chat.url], wrap=another_server)
    response = await http.post(front.url + CHAT, content=BODY)
    assert response.text == "".join(f"data: {number}\n\n" for number in range(50))
    assert writers == []


async def test_a_first_byte_is_timed_on_the_straight_way_too(
    backend: Any, door: Any, http: Any
) -> None:
    def count() -> float:
        labels = {"role": "gateway", "path": CHAT}
        name = "bentovox_first_byte_seconds_count"
        return REGISTRY.get_sample_value(name, labels) or 0

    chat = await backend()
    chat.says(event_stream(2))
    front = await door(chat=[chat.url])
    before = count()
    await http.post(front.url + CHAT, content=BODY)
    assert count() == before + 1


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
async def test_a_slow_reader_stops_the_backend_instead_of_filling_memory(
    backend: Any, door: Any, framing: str
) -> None:
    chat = await backend()
    front = await door(chat=[chat.url])
    total, step = 64 << 20, 1 << 16
    sent = 0

    async def answer(_request: Any, writer_: asyncio.StreamWriter) -> None:
        nonlocal sent
        chunked = framing == "chunked"
        head = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % total
        writer_.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
        while sent < total:
            writer_.write(b"%x\r\n%b\r\n" % (step, bytes(step)) if chunked else bytes(step))
            await writer_.drain()
            sent += step
        if chunked:
            writer_.write(b"0\r\n\r\n")

    chat.answer = answer
    reader, client = await raw(front.url, POST)
    await reader.readuntil(b"\r\n\r\n")
    stalled = -1
    while stalled != sent:  # until nothing moves any more
        stalled = sent
        await asyncio.sleep(0.05)
    assert sent < total // 2  # what the sockets' own buffers hold
    read = 0
    end = b"0\r\n\r\n" if framing == "chunked" else b""
    tail = b""
    async with asyncio.timeout(20):
        while read < total or not tail.endswith(end):
            data = await reader.read(1 << 20)
            assert data
            read, tail = read + len(data), (tail + data)[-5:]
    assert sent == total
    client.close()


async def test_head_is_answered_with_the_length_and_no_body(
    backend: Any, door: Any, http: Any
) -> None:
    speech = await backend()
    front = await door(speech=[speech.url])
    response = await http.head(front.url + "/v1/audio/voices")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == "5"
    assert (await http.get(front.url + "/v1/audio/voices")).content == b"hello"
    assert speech.connections == 1


# Faults of the backend


async def test_nothing_is_sent_twice(backend: Any, door: Any, http: Any) -> None:
    """Its worker may have begun before it died; another process would do it all again."""
    chat = await backend()
    front = await door(chat=[chat.url])

    async def closes(_request: Any, writer_: asyncio.StreamWriter) -> None:
        writer_.close()

    chat.answer = closes
    response = await http.post(front.url + CHAT, content=BODY)
    assert fault(response) == (502, "bad_gateway")
    assert len(chat.requests) == 1


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nconte", b"garbage\r\n\r\n"])
async def test_a_backend_that_breaks_off_before_its_head_is_502(
    backend: Any, door: Any, http: Any, answer: bytes
) -> None:
    chat = await backend()
    chat.says(answer, close=True)
    front = await door(chat=[chat.url])
    response = await http.post(front.url + CHAT, content=BODY)
    assert fault(response) == (502, "bad_gateway")
    assert "garbage" not in response.text
    assert not front.pools.by_role["chat"].ready  # until the next probe
    assert fault(await http.post(front.url + CHAT, content=BODY))[0] == 503
    await front.probe()
    chat.answer = chat.hello
    assert (await http.post(front.url + CHAT, content=BODY)).status_code == 200


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
async def test_a_backend_that_breaks_off_in_its_body_closes_the_connection(
    backend: Any, door: Any, framing: str
) -> None:
    chat = await backend()
    if framing == "chunked":
        chat.says(event_stream(3)[:-5], close=True)
    else:
        chat.says(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\ndata: 2\n\n", close=True)
    front = await door(chat=[chat.url])
    reader, client = await raw(front.url, POST)
    async with asyncio.timeout(2):
        data = await reader.read()  # to the end
    client.close()
    assert data.startswith(b"HTTP/1.1 200 OK")
    assert b"data: 2" in data
    assert not data.endswith(b"0\r\n\r\n")
    assert (await chat_again(front, chat)).status_code == 200


async def chat_again(front: Any, chat: Any) -> httpx.Response:
    chat.answer = chat.hello
    async with httpx.AsyncClient() as client:
        return await client.post(front.url + CHAT, content=BODY)


async def test_a_backend_that_is_gone_is_503(backend: Any, door: Any, http: Any) -> None:
    chat = await backend()
    front = await door(chat=[chat.url])
    only = front.pools.by_role["chat"].backends[0]
    only.connections.close()
    object.__setattr__(only.connections.address, "port", 1)
    response = await http.post(front.url + CHAT, content=BODY)
    assert fault(response) == (503, "service_unavailable")
    assert response.headers["retry-after"] == "2"
    assert not only.ready


async def test_a_backend_that_does_not_answer_is_504(backend: Any, door: Any, http: Any) -> None:
    chat = await backend()
    gone = asyncio.Event()

    async def silent(request: Any, _writer: Any) -> None:
        await gone.wait()
        del request

    chat.answer = silent
    front = await door(chat=[chat.url], answer_timeout_s=0.05)
    assert fault(await http.post(front.url + CHAT, content=BODY)) == (504, "deadline_exceeded")
    assert front.pools.by_role["chat"].backends[0].outstanding == 0
    gone.set()


async def test_a_backends_error_is_normalised_and_keeps_its_headers(
    backend: Any, door: Any, http: Any
) -> None:
    chat = await backend()
    body = b'{"error":{"message":"no such model","type":"NotFoundError","param":"model",'
    body += b'"code":404}}'
    chat.says(b"HTTP/1.1 404 Not Found\r\nx-a: 1\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    front = await door(chat=[chat.url])
    response = await http.post(front.url + CHAT, content=BODY)
    assert fault(response) == (404, "model_not_found")
    assert response.headers["x-a"] == "1"


async def test_an_upgrade_that_nobody_asked_for_is_502(backend: Any, door: Any, http: Any) -> None:
    chat = await backend()
    chat.says(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n")
    front = await door(chat=[chat.url], answer_timeout_s=2)
    assert fault(await http.post(front.url + CHAT, content=BODY))[0] == 502


# The client leaves


@pytest.mark.parametrize("when", ["before the head", "in the body"])
async def test_a_client_that_hangs_up_reaches_the_backend_at_once(
    backend: Any, door: Any, when: str
) -> None:
    chat = await backend()
    noticed = asyncio.Event()

    async def endless(request: Any, writer_: asyncio.StreamWriter) -> None:
        if when == "in the body":
            writer_.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
            await writer_.drain()
        assert await request.reader.read() == b""
        noticed.set()

    chat.answer = endless
    front = await door(chat=[chat.url])
    reader, client = await raw(front.url, POST)
    await chat.arrived.wait()
    if when == "in the body":
        await reader.readuntil(b"x\r\n")
    only = front.pools.by_role["chat"].backends[0]
    assert (front.shell.admission.in_use, only.outstanding) == (1, 1)
    client.transport.abort()
    async with asyncio.timeout(1):
        await noticed.wait()
    await until(lambda: front.shell.admission.in_use == 0)
    assert only.outstanding == 0
    assert only.ready  # it did nothing wrong


async def test_a_client_that_hangs_up_counts_as_499_not_as_the_backends_fault(
    backend: Any, door: Any
) -> None:
    def count(status: str) -> float:
        labels = {"role": "gateway", "path": CHAT, "status": status}
        return REGISTRY.get_sample_value("bentovox_requests_total", labels) or 0

    chat = await backend()
    gone = asyncio.Event()
    chat.answer = lambda _request, _writer: gone.wait()
    front = await door(chat=[chat.url])
    before = count("499"), count("502")
    _, client = await raw(front.url, POST)
    await chat.arrived.wait()
    client.transport.abort()
    await until(lambda: front.shell.admission.in_use == 0)
    assert (count("499"), count("502")) == (before[0] + 1, before[1])
    gone.set()


# Who may ask, for what


async def test_without_the_key_nothing_reaches_the_backend(
    backend: Any, door: Any, http: Any
) -> None:
    chat = await backend()
    line = "anna:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"  # of "secret"
    front = await door(chat=[chat.url], keys=SecretStr(line))
    for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "wrong"}):
        response = await http.post(front.url + CHAT, content=BODY, headers=headers)
        assert fault(response) == (401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
        assert fault(await http.get(front.url + "/v1/models", headers=headers))[0] == 401
    assert chat.requests == []
    for headers in ({"authorization": "Bearer secret"}, {"x-api-key": "secret"}):
        assert (await http.post(front.url + CHAT, content=BODY, headers=headers)).status_code == 200
        assert "secret" not in str(chat.requests[-1].headers)
    assert (await http.get(front.url + "/livez")).status_code == 200


async def test_models_of_all_roles_are_one_list(backend: Any, door: Any, http: Any) -> None:
    chat, speech = await backend("org/a"), await backend("tts-1")
    front = await door(chat=[chat.url], speech=[speech.url])
    listed = (await http.get(front.url + "/v1/models")).json()
    assert listed["object"] == "list"
    assert [card["id"] for card in listed["data"]] == ["org/a", "tts-1"]
    assert (await http.get(front.url + "/v1/models/org/a")).json()["id"] == "org/a"
    assert fault(await http.get(front.url + "/v1/models/none")) == (404, "model_not_found")
    assert chat.requests == []


async def test_the_model_leads_to_its_backend(backend: Any, door: Any, http: Any) -> None:
    a, b = await backend("a"), await backend("b")
    front = await door(chat=[a.url, b.url])
    content = parts(b'{"model": ', b'"b", "messages": []}')
    assert (await http.post(front.url + CHAT, content=content)).status_code == 200
    assert (len(a.requests), len(b.requests)) == (0, 1)
    assert json.loads(b.requests[0].body)["model"] == "b"
    none = await http.post(front.url + CHAT, content=b'{"model": "c"}')
    assert fault(none) == (404, "model_not_found")
    assert fault(await http.post(front.url + CHAT, content=b"{")) == (400, "invalid_json")


async def test_a_model_is_503_until_every_backend_has_named_its_own(
    backend: Any, door: Any, http: Any
) -> None:
    a, b = await backend("a"), await backend("b")
    b.ready = False
    front = await door(chat=[a.url, b.url])
    early = await http.post(front.url + CHAT, content=b'{"model": "b", "messages": []}')
    assert fault(early) == (503, "service_unavailable")
    assert early.headers["retry-after"] == "2"
    assert (await http.post(front.url + CHAT, content=b'{"model": "a"}')).status_code == 200
    assert len(a.requests) == 1
    b.ready = True
    await front.probe()
    assert (await http.post(front.url + CHAT, content=b'{"model": "b"}')).status_code == 200
    none = await http.post(front.url + CHAT, content=b'{"model": "c"}')
    assert fault(none) == (404, "model_not_found")


async def test_the_model_of_a_form_leads_to_its_backend_wherever_it_stands(
    backend: Any, door: Any, http: Any
) -> None:
    a, b = await backend("a"), await backend("b")
    front = await door(chat=[a.url, b.url])
    file = ("file", ("x.wav", b"RIFF" + bytes(3 << 20)))
    model = ("model", (None, b"b"))
    for form in ([model, file], [file, model]):
        answer = await http.post(front.url + CHAT, files=form)
        assert answer.status_code == 200
        assert b"RIFF" in b.requests[-1].body
    assert (len(a.requests), len(b.requests)) == (0, 2)
    none = await http.post(front.url + CHAT, files=[file, ("model", (None, b"c"))])
    assert fault(none) == (404, "model_not_found")


async def test_a_form_that_names_no_model_goes_to_any_backend(
    backend: Any, door: Any, http: Any
) -> None:
    a, b = await backend("a"), await backend("b")
    front = await door(chat=[a.url, b.url])
    form = {"content-type": "multipart/form-data; boundary=x"}
    whole = await http.post(front.url + CHAT, files={"file": b"RIFF"})
    broken = await http.post(front.url + CHAT, content=b"no form at all", headers=form)
    assert (whole.status_code, broken.status_code) == (200, 200)  # the backend says what is wrong


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"model": "b", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json"),
        (b'{"model": "b", "x": ' + b'{"a":' * 20_000 + b"0" + b"}" * 20_000 + b"}", None),
    ],
    ids=["deep", "deep and many"],
)
async def test_json_that_is_too_deep_is_400_where_the_model_decides(
    backend: Any, door: Any, http: Any, body: bytes, code: str | None
) -> None:
    a, b = await backend("a"), await backend("b")
    front = await door(chat=[a.url, b.url])
    status, said = fault(await http.post(front.url + CHAT, content=body))
    assert (status, said) == (400, code or said)
    assert not a.requests + b.requests


async def test_what_is_no_form_has_a_limit_of_its_own(backend: Any, door: Any, http: Any) -> None:
    chat = await backend()
    front = await door(chat=[chat.url], json_limit_mib=0.5, body_limit_mib=2)
    response = await http.post(front.url + CHAT, content=b" " * (1 << 20))
    assert fault(response) == (413, "request_too_large")
    assert str(1 << 19) in response.json()["error"]["message"]
    form = await http.post(front.url + CHAT, files={"file": bytes(1 << 20)})
    assert form.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/invocations", 404),
        ("POST", "/v1/load_lora_adapter", 404),
        ("GET", CHAT, 405),
        ("POST", "/v1/models", 405),
        ("POST", "/v1/audio/speech", 404),  # there is no speech behind this door
    ],
)
async def test_only_listed_paths_lead_through(
    backend: Any, door: Any, method: str, path: str, status: int
) -> None:
    chat = await backend()
    front = await door(chat=[chat.url])
    async with httpx.AsyncClient() as client:
        assert fault(await client.request(method, front.url + path))[0] == status
    assert chat.requests == []


async def test_requests_go_on_over_a_unix_socket(
    backend: Any, door: Any, http: Any, tmp_path: Any
) -> None:
    chat = await backend(path=str(tmp_path / "chat.sock"))
    front = await door(chat=[chat.url])
    assert (await http.post(front.url + CHAT, content=BODY)).content == b"hello"
    assert chat.requests[0].all("host") == ["localhost"]


async def test_past_slots_and_queue_the_door_is_429(backend: Any, door: Any, http: Any) -> None:
    chat = await backend()
    gate = asyncio.Event()

    async def waiting(request: Any, writer_: asyncio.StreamWriter) -> None:
        await gate.wait()
        await chat.hello(request, writer_)

    chat.answer = waiting
    front = await door(chat=[chat.url], slots=1, queue=1)
    taken: list[Awaitable[httpx.Response]] = [
        asyncio.create_task(http.post(front.url + CHAT, content=BODY)) for _ in range(2)
    ]
    await until(lambda: front.shell.admission.waiting == 1)
    refused = await http.post(front.url + CHAT, content=BODY)
    assert fault(refused) == (429, "rate_limit_exceeded")
    assert refused.headers["retry-after-ms"]
    gate.set()
    assert [(await one).status_code for one in taken] == [200, 200]
    assert len(chat.requests) == 2
