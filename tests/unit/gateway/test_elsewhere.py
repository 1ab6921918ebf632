"""A gateway with several backends: which one is asked, which one instead, and what waits."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.asyncio.client import connect

from services.backends import pools as pools_module
from services.server import telemetry, websocket
from services.server.uvicorn_http import Draining

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHAT = "/v1/chat/completions"
DEAD = "http://127.0.0.1:1"


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30) as client:
        yield client


def hello(text: str) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


async def test_a_request_to_one_that_has_died_is_answered_by_another(
    backend: Any, door: Any, http: Any
) -> None:
    chat = await backend()
    front = await door(chat=[DEAD, chat.url])
    front.pools.by_role["chat"].backends[0].mark(ready=True)  # as it was a moment ago
    front.pools.by_role["chat"].backends[1].count(3)
    body = json.dumps({**hello("Hello"), "user": "x" * 200_000})  # more than is kept at once
    response = await http.post(front.url + CHAT, content=body)
    assert (response.status_code, response.text) == (200, "hello")
    (request,) = chat.requests
    assert request.body == body.encode()


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Serve a role whose WebSocket says hello and sends back the first message."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"data": [{"id": "m"}]}'})
        return
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": "hello"})
    await send({**await receive(), "type": "websocket.send"})
    await receive()


@pytest.mark.parametrize("stuck", [False, True], ids=["died", "hangs"])
async def test_a_websocket_to_one_that_does_not_take_it_is_taken_by_another(
    serve: Any, backend: Any, door: Any, *, stuck: bool
) -> None:
    async def silent(_request: Any, _writer: Any) -> None:
        await asyncio.Event().wait()

    hangs = await backend()
    front = await door(
        speech=[hangs.url if stuck else DEAD, await serve(echo)], connect_timeout_s=1
    )
    hangs.answer = silent
    pool = front.pools.by_role["speech"]
    pool.backends[0].mark(ready=True)
    pool.backends[1].count(3)
    url = front.url.replace("http", "ws", 1) + "/v1/audio/speech/stream"
    async with connect(url, proxy=None) as client:
        assert await client.recv() == "hello"
        assert [one.outstanding for one in pool.backends] == [0, 4]


async def test_one_conversation_stays_with_one_backend(backend: Any, door: Any, http: Any) -> None:
    chats = [await backend() for _ in range(3)]
    front = await door(chat=[one.url for one in chats])
    for number in range(30):
        body = hello(f"conversation {number % 6}")
        await http.post(front.url + CHAT, json=body)
    asked = [{json.loads(one.body)["messages"][0]["content"] for one in c.requests} for c in chats]
    assert sum(map(len, asked)) == 6  # none was seen by two
    assert sum(len(one.requests) for one in chats) == 30


async def test_affinity_can_be_switched_off(backend: Any, door: Any, http: Any) -> None:
    chats = [await backend() for _ in range(3)]
    front = await door(chat=[one.url for one in chats], affinity=False)
    pool = front.pools.by_role["chat"]
    for one, outstanding in zip(pool.backends, (2, 0, 1), strict=True):
        one.count(outstanding)
    for number in range(8):
        await http.post(front.url + CHAT, json=hello(f"conversation {number}"))
    assert [len(one.requests) for one in chats] == [0, 8, 0]


async def test_a_request_waits_for_a_role_that_starts(backend: Any, door: Any, http: Any) -> None:
    chat = await backend("one")
    chat.ready = False
    front = await door(chat=[chat.url], hold_s=30)
    waiting = asyncio.ensure_future(http.post(front.url + CHAT, json=hello("Hello")))
    pool = front.pools.by_role["chat"]
    async with asyncio.timeout(10):
        while not pool.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    metrics = (await http.get(f"{front.url}/metrics")).text
    assert 'bentovox_held_requests{asked="chat"} 1.0' in metrics
    assert not chat.requests
    chat.ready = True
    await front.probe()
    assert (await waiting).text == "hello"


# Those that wait and go away


async def held(front: Any, role: str) -> Any:
    pool = front.pools.by_role[role]
    async with asyncio.timeout(10):
        while not pool.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    return pool


async def until_nobody_waits(pool: Any) -> None:
    async with asyncio.timeout(10):
        while pool.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_a_request_that_waits_ends_with_its_client(door: Any, http: Any) -> None:
    front = await door(chat=[DEAD], hold_s=3600)
    waiting = asyncio.ensure_future(http.post(front.url + CHAT, json=hello("Hello")))
    pool = await held(front, "chat")
    waiting.cancel()
    await until_nobody_waits(pool)
    async with asyncio.timeout(10):
        while front.shell.held.bytes:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_requests_that_wait_for_a_role_keep_nobody_from_another(
    backend: Any, door: Any, http: Any
) -> None:
    speech, chat = await backend(), await backend()
    front = await door(chat=[chat.url], speech=[speech.url], hold_s=3600, slots=1, queue=3)
    pool = front.pools.by_role["chat"]
    pool.backends[0].mark(ready=False)
    waiting = [
        asyncio.ensure_future(http.post(front.url + CHAT, json=hello("Hello"))) for _ in range(3)
    ]
    async with asyncio.timeout(10):
        while pool.waiting < len(waiting):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert front.shell.admission.in_use == 0
    spoken = await http.post(front.url + "/v1/audio/speech", json={"input": "Hello"})
    assert spoken.text == "hello"
    pool.backends[0].mark(ready=True)
    assert [(await one).status_code for one in waiting] == [200] * 3  # one after the other
    assert front.shell.admission.in_use == 0
    assert front.shell.admission.retry_after_s() <= 1


async def test_a_websocket_that_waits_ends_with_its_client(door: Any) -> None:
    front = await door(speech=[DEAD], hold_s=3600)
    url = front.url.replace("http", "ws", 1) + "/v1/audio/speech/stream"
    waiting = asyncio.ensure_future(connect(url, proxy=None, open_timeout=None).__aenter__())
    pool = await held(front, "speech")
    waiting.cancel()
    await until_nobody_waits(pool)
    async with asyncio.timeout(10):
        while front.shell.open_sockets:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_a_websocket_that_waited_long_has_its_whole_turn_to_speak(
    serve: Any, door: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "HELLO_S", 0.5)
    front = await door(speech=[await serve(echo)], hold_s=30)
    pool = front.pools.by_role["speech"]
    pool.backends[0].mark(ready=False)
    url = front.url.replace("http", "ws", 1) + "/v1/audio/speech/stream"
    waiting = asyncio.ensure_future(connect(url, proxy=None).__aenter__())
    await held(front, "speech")
    await asyncio.sleep(1)  # longer than a client may be silent
    pool.backends[0].mark(ready=True)
    client = await waiting
    assert await client.recv() == "hello"
    await client.send("again")
    assert await client.recv() == "again"
    await client.close()


async def test_nobody_waits_at_a_server_that_was_told_to_end(
    door: Any, http: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools_module, "_LOOK_S", 0.01)
    monkeypatch.setattr(Draining, "begun", False)
    front = await door(chat=[DEAD], hold_s=3600)
    waiting = asyncio.ensure_future(http.post(front.url + CHAT, json=hello("Hello")))
    await held(front, "chat")
    Draining.begun = True
    assert (await waiting).status_code == 503
    response = await http.post(front.url + CHAT, json=hello("Hello"))
    assert response.status_code == 503
    assert response.headers["retry-after"] == "2"
    assert (await http.get(front.url + "/readyz")).json()["status"] == "draining"


async def test_requests_go_on_while_the_metrics_of_many_backends_are_joined(
    backend: Any, door: Any, http: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, answered = threading.Event(), threading.Event()

    def slowly(own: bytes, _of_backends: dict[str, bytes]) -> bytes:
        begun.set()
        return own if answered.wait(20) else b""

    monkeypatch.setattr(telemetry, "merge", slowly)
    chat = await backend()
    front = await door(chat=[chat.url])
    scraped = asyncio.ensure_future(http.get(f"{front.url}/metrics"))
    assert await asyncio.to_thread(begun.wait, 20)
    assert (await http.post(front.url + CHAT, json=hello("Hello"))).status_code == 200
    answered.set()
    assert b"bentovox_" in (await scraped).content
