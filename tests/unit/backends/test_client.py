"""A role's own requests to backends: whole answers, streams, refusals, hang-ups."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services import errors
from services.backends.client import Caller, Question
from services.backends.connection import HELD_BYTES
from services.backends.pools import Pools
from services.settings.sections import GatewaySettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

ASK = Question.of("chat", "/v1/chat/completions", {"model": "m", "say": "Grüße"})


@pytest.fixture
async def caller() -> AsyncIterator[Callable[..., Awaitable[Caller]]]:
    made: list[Pools] = []

    async def call(*urls: str, **rules: Any) -> Caller:
        pools = Pools({"chat": list(urls)}, GatewaySettings(**rules))
        made.append(pools)
        for one in pools.backends():
            await one.probe()
        return Caller(pools, b"req_1")

    yield call
    for pools in made:
        for one in pools.backends():
            one.connections.close()


def answer(body: bytes, status: bytes = b"200 OK", *headers: bytes) -> bytes:
    head = [b"HTTP/1.1 " + status, b"content-length: %d" % len(body), *headers, b"", b""]
    return b"\r\n".join(head) + body


def chunked(*pieces: bytes, end: bool = True) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n" * end


async def events(caller: Caller) -> list[dict[str, Any]]:
    async with caller.answer(ASK) as given_, aclosing(given_.events()) as told:
        return [event async for event in told]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_a_question_arrives_whole_under_the_requests_id(backend: Any, caller: Any) -> None:
    chat = await backend()
    chat.says(answer(b'{"a": 1}'))
    asks = await caller(chat.url)
    assert await asks.json(ASK) == {"a": 1}
    (request,) = chat.requests
    assert request.line == "POST /v1/chat/completions HTTP/1.1"
    assert json.loads(request.body) == {"model": "m", "say": "Grüße"}
    assert request.all("x-request-id") == ["req_1"]
    assert request.all("content-type") == ["application/json"]


async def test_connections_are_kept(backend: Any, caller: Any) -> None:
    chat = await backend()
    chat.says(answer(b"{}"))
    asks = await caller(chat.url)
    for _ in range(3):
        await asks.json(ASK)
    assert chat.connections == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (b"400 x", errors.InvalidRequestError),
        (b"404 x", errors.NotFoundError),
        (b"413 x", errors.TooLargeError),
        (b"429 x", errors.OverloadedError),
        (b"418 x", errors.InvalidRequestError),
        (b"500 x", errors.EngineError),
        (b"503 x", errors.UnavailableError),
        (b"599 x", errors.BackendError),
    ],
)
async def test_a_backends_refusal_is_the_error_that_it_was_there(
    backend: Any, caller: Any, status: bytes, kind: type[errors.ServiceError]
) -> None:
    chat = await backend()
    fault = {"message": "no", "type": "t", "param": "voice", "code": "why"}
    chat.says(answer(json.dumps({"error": fault}).encode(), status, b"retry-after-ms: 1500"))
    asks = await caller(chat.url)
    with pytest.raises(kind) as caught:
        await asks.json(ASK)
    error = caught.value
    assert type(error) is kind
    assert (error.message, error.param, error.code, error.retry_after_s) == (
        "no",
        "voice",
        "why",
        1.5,
    )
    assert asks._pools.by_role["chat"].backends[0].outstanding == 0


@pytest.mark.parametrize("body", [b"hello", b"[]", b"\xff\xfe", b""])
async def test_nonsense_is_a_bad_gateway(backend: Any, caller: Any, body: bytes) -> None:
    chat = await backend()
    chat.says(answer(body))
    asks = await caller(chat.url)
    with pytest.raises(errors.BackendError):
        await asks.json(ASK)


async def test_nobody_ready_is_unavailable(backend: Any, caller: Any) -> None:
    chat = await backend()
    chat.ready = False
    asks = await caller(chat.url)
    with pytest.raises(errors.UnavailableError):
        await asks.json(ASK)


async def test_a_silent_backend_is_late(backend: Any, caller: Any) -> None:
    chat = await backend()
    chat.says(b"")
    asks = await caller(chat.url, answer_timeout_s=0.05)
    with pytest.raises(errors.DeadlineError):
        await asks.json(ASK)
    chat.says(chunked(b"data: {}\n\n", end=False))
    with pytest.raises(errors.DeadlineError, match="The chat service was silent"):
        await events(asks)


@pytest.mark.parametrize("asked", ["a GET", "a POST"])
async def test_nothing_that_met_a_closing_connection_is_asked_again(
    backend: Any, caller: Any, asked: str
) -> None:
    chat = await backend()
    chat.says(answer(b"{}"))
    asks = await caller(chat.url)
    hits = 0

    async def closes(_request: Any, writer: Any) -> None:
        nonlocal hits
        hits += 1
        writer.close()

    chat.answer = closes
    with pytest.raises(errors.BackendError):
        await asks.json(Question("chat", "/v1/audio/voices") if asked == "a GET" else ASK)
    assert hits == 1


@pytest.mark.parametrize(
    "headers", [[b"retry-after: 7"], [b"retry-after: 8", b"retry-after-ms: 7000"]]
)
async def test_a_refusal_says_when_to_come_back(
    backend: Any, caller: Any, headers: list[bytes]
) -> None:
    chat = await backend()
    chat.says(answer(b"{}", b"429 Too Many Requests", *headers))
    asks = await caller(chat.url)
    with pytest.raises(errors.OverloadedError) as refused:
        await asks.json(ASK)
    assert refused.value.retry_after_s == 7


async def test_a_large_question_arrives_whole(backend: Any, caller: Any) -> None:
    chat = await backend()
    chat.says(answer(b"{}"))
    asks = await caller(chat.url)
    for size in (HELD_BYTES - 1, HELD_BYTES, HELD_BYTES + 1, 3 << 20):
        body = bytes(range(256)) * (size // 256 + 1)
        await asks.json(Question("chat", "/v1/chat/completions", [body[:9], body[9:size]]))
        assert chat.requests[-1].body == body[:size]
    assert chat.connections == 1


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cuts=st.lists(st.integers(1, 60), max_size=30), newline=st.sampled_from(["\n", "\r\n"]))
async def test_events_come_whole_however_the_bytes_are_cut(
    backend: Any, caller: Any, cuts: list[int], newline: str
) -> None:
    told = [{"type": "a", "text": "grün\n"}, {"type": "b", "list": [1, {"x": None}]}]
    lines = [f": a comment{newline}", *(f"data: {json.dumps(one)}{newline * 2}" for one in told)]
    whole = "".join([*lines, f"event: x{newline}data: [DONE]{newline * 2}"]).encode()
    pieces = []
    for cut in cuts:
        pieces.append(whole[:cut])
        whole = whole[cut:]
    chat = await backend()
    chat.says(chunked(*(piece for piece in [*pieces, whole] if piece)))
    assert await events(await caller(chat.url)) == told


async def test_a_stream_that_breaks_off_raises_after_what_came(backend: Any, caller: Any) -> None:
    chat = await backend()
    chat.says(chunked(b'data: {"n": 1}\n\n', end=False), close=True)
    asks = await caller(chat.url)
    async with asks.answer(ASK) as given_, aclosing(given_.events()) as told:
        assert await anext(told) == {"n": 1}
        with pytest.raises(errors.BackendError):
            await anext(told)


async def test_an_error_among_the_events_is_raised(backend: Any, caller: Any) -> None:
    chat = await backend()
    fault = {"error": {"message": "the engine died", "type": "server_error", "code": "died"}}
    chat.says(chunked(b"data: " + json.dumps(fault).encode() + b"\n\n"))
    with pytest.raises(errors.EngineError, match="the engine died"):
        await events(await caller(chat.url))


async def test_a_backend_is_not_read_while_nobody_takes(backend: Any, caller: Any) -> None:
    chat = await backend()
    written = 0
    block = b"%x\r\n%b\r\n" % (1 << 16, bytes(1 << 16))

    async def pour(_request: Any, writer: Any) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(1 << 10):  # 64 MiB
            writer.write(block)
            await writer.drain()
            written += 1 << 16
        writer.write(b"0\r\n\r\n")

    chat.answer = pour
    asks = await caller(chat.url)
    async with asks.answer(ASK) as given_, aclosing(given_.pieces()) as pieces:
        size = len(await anext(pieces))
        before = -1
        while written != before:  # until the sockets' buffers are full
            before = written
            await asyncio.sleep(0.05)
        assert written < 32 << 20
        async for piece in pieces:
            assert len(piece) <= 1 << 20
            size += len(piece)
    assert size == 64 << 20
    assert chat.connections == 1
    chat.says(answer(b"{}"))
    assert await asks.json(ASK) == {}  # the connection serves again


async def test_whoever_gives_up_hangs_up(backend: Any, caller: Any) -> None:
    chat = await backend()
    gone = asyncio.Event()

    async def wait(request: Any, writer: Any) -> None:
        writer.write(chunked(b"data: {}\n\n", end=False))
        assert await request.reader.read(1) == b""
        gone.set()

    chat.answer = wait
    asks = await caller(chat.url)
    asking = asyncio.ensure_future(events(asks))
    await chat.arrived.wait()
    asking.cancel()
    async with asyncio.timeout(20):
        await gone.wait()
    await asyncio.gather(asking, return_exceptions=True)
    assert asks._pools.by_role["chat"].backends[0].outstanding == 0


async def test_the_first_model_is_always_the_same_one(backend: Any, caller: Any) -> None:
    one, other = await backend("b", "a"), await backend("c")
    asks = await caller(one.url, other.url)
    asks._pools.by_role["chat"].backends[0].count(9)
    assert (await asks.card("chat"))["id"] == "b"
    assert (await asks.card("chat", "c"))["id"] == "c"
    with pytest.raises(errors.NotFoundError):
        await asks.card("chat", "d")


async def test_a_dated_name_finds_the_model_without_its_date(backend: Any, caller: Any) -> None:
    asks = await caller((await backend("gpt-x")).url)
    assert (await asks.card("chat", "gpt-x-2026-01-31"))["id"] == "gpt-x"


async def test_a_question_waits_for_a_role_that_starts(backend: Any, caller: Any) -> None:
    chat = await backend("m")
    asks = await caller(chat.url, hold_s=30)
    (one,) = asks._pools.by_role["chat"].backends
    one.mark(ready=False)
    asking = asyncio.ensure_future(asks.card("chat"))
    while not asks._pools.by_role["chat"].waiting:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await one.probe()
    assert (await asking)["id"] == "m"
