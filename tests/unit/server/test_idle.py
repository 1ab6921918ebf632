"""An engine that nobody uses is unloaded, and loaded again for the next request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from services.errors import UnavailableError
from services.server.admission import Limits
from services.server.idle import Unloading
from services.server.serving import Readiness, RoleApp
from services.server.shell import Shell

AFTER_S = 0.05


class Engine:
    """An engine that loads when the test lets it."""

    def __init__(self) -> None:
        self.ready = True
        self.loads = 0
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.fails = False

    async def close(self) -> None:
        self.ready = False

    async def start(self) -> None:
        self.loads += 1
        await self.may_load.wait()
        if self.fails:
            raise UnavailableError("no memory left")
        self.ready = True

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        assert self.ready
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    async def talk(self, _scope: Any, receive: Any, send: Any) -> None:
        assert self.ready
        await send({"type": "websocket.accept"})
        await receive()


@pytest.fixture
async def engine() -> Engine:
    return Engine()


Start = Callable[..., Awaitable[tuple[Shell, httpx.AsyncClient]]]


@pytest.fixture
async def start(serve: Any, engine: Engine) -> AsyncIterator[Start]:
    """Return `await start(deadline_s)`: a role with the engine, and a client of it."""

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield

    async with AsyncExitStack() as stack:

        async def started(deadline_s: float = 30) -> tuple[Shell, httpx.AsyncClient]:
            shell = Shell(
                RoleApp(
                    role="test",
                    handlers={("POST", "/v1/work"): engine},
                    limits=Limits(slots=4, queue=4, deadline_s=deadline_s),
                    body_limit_bytes=1000,
                    readiness=lambda: Readiness("ready" if engine.ready else "starting", {}),
                    lifespan=lifespan,
                    sockets={"/v1/talk": engine.talk},
                    unloading=Unloading(engine, AFTER_S),
                )
            )
            client = httpx.AsyncClient(base_url=await serve(shell, lifespan=True), timeout=30)
            return shell, await stack.enter_async_context(client)

        yield started


async def status(role: httpx.AsyncClient) -> tuple[int, str]:
    answer = await role.get("/readyz")
    return answer.status_code, answer.json()["status"]


async def is_idle(role: httpx.AsyncClient) -> None:
    async with asyncio.timeout(30):
        while await status(role) != (200, "idle"):  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_an_idle_role_says_so_and_answers_the_next_requests(
    start: Start, engine: Engine
) -> None:
    shell, role = await start()
    await is_idle(role)
    assert not engine.ready
    engine.may_load.clear()
    requests = [asyncio.create_task(role.post("/v1/work")) for _ in range(4)]
    async with asyncio.timeout(30):
        while shell.admission.in_use < len(requests):  # noqa: ASYNC110
            await asyncio.sleep(0)
    engine.may_load.set()
    assert [(await one).text for one in requests] == ["done"] * 4
    assert engine.loads == 1
    await is_idle(role)


async def test_a_request_waits_no_longer_than_its_deadline_while_the_load_goes_on(
    start: Start, engine: Engine
) -> None:
    _, role = await start(deadline_s=0.05)
    await is_idle(role)
    engine.may_load.clear()
    for _ in range(2):
        late = await role.post("/v1/work")
        assert (late.status_code, late.headers["retry-after"]) == (503, "5")
    assert engine.loads == 1
    engine.may_load.set()
    async with asyncio.timeout(30):
        while not engine.ready:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_a_load_that_fails_is_tried_again_by_the_next_request(
    start: Start, engine: Engine
) -> None:
    _, role = await start()
    await is_idle(role)
    engine.fails = True
    assert "no memory left" in (await role.post("/v1/work")).text
    assert await status(role) == (200, "idle")
    engine.fails = False
    assert (await role.post("/v1/work")).text == "done"


async def test_an_open_websocket_loads_the_engine_and_keeps_it(
    start: Start, engine: Engine
) -> None:
    _, role = await start()
    await is_idle(role)
    url = str(role.base_url).replace("http", "ws", 1) + "/v1/talk"
    async with connect(url):
        for _ in range(3):
            await asyncio.sleep(AFTER_S)
            assert engine.ready
    await is_idle(role)


async def test_an_engine_that_is_not_there_yet_is_left_alone(start: Start, engine: Engine) -> None:
    engine.ready = False
    _, role = await start()
    await asyncio.sleep(3 * AFTER_S)
    assert await status(role) == (503, "starting")
