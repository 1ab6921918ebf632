"""What many folders use: applications served in the test's event loop, and one real stack."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import uvicorn
from uvicorn.server import ServerState

from services.server.uvicorn_http import BoundedHttp
from tests.engine import built, engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.e2e.server import Server

__all__ = ["built", "engine"]  # fixtures for all: one engine a session

# A busy machine is no fault: what must be quick is bounded where it is tested.
hypothesis.settings.register_profile("any-machine", deadline=None)
hypothesis.settings.load_profile("any-machine")


@asynccontextmanager
async def _in_lifespan(app: Any) -> AsyncIterator[None]:
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    outbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    running = asyncio.create_task(app({"type": "lifespan"}, inbox.get, outbox.put))
    inbox.put_nowait({"type": "lifespan.startup"})
    assert await outbox.get() == {"type": "lifespan.startup.complete"}
    try:
        yield
    finally:
        inbox.put_nowait({"type": "lifespan.shutdown"})
        assert await outbox.get() == {"type": "lifespan.shutdown.complete"}
        await running


@asynccontextmanager
async def _listening(app: Any, path: str | None) -> AsyncIterator[str]:
    """Listen with uvicorn's protocol, without its server and the 0.1 s that it takes to end."""
    loop = asyncio.get_running_loop()
    config = uvicorn.Config(app, http=BoundedHttp, log_config=None, access_log=False)
    config.load()
    state = ServerState()

    def connection() -> asyncio.Protocol:
        made: asyncio.Protocol = config.http_protocol_class(  # type: ignore[call-arg]
            config=config, server_state=state, app_state={}
        )
        return made

    if path is None:
        server = await loop.create_server(connection, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    else:
        server = await loop.create_unix_server(connection, path)
        url = f"file://{path}"
    try:
        yield url
    finally:
        server.close()
        for open_ in list(state.connections):
            open_.transport.abort()
        async with asyncio.timeout(5):  # an exchange ends when its client has gone
            await asyncio.gather(*state.tasks, return_exceptions=True)


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[str]]]:
    """Return `await serve(app)`: the URL at which uvicorn serves it until the test ends."""
    async with AsyncExitStack() as stack:

        async def start(app: Any, *, lifespan: bool = False, path: str | None = None) -> str:
            if lifespan:
                await stack.enter_async_context(_in_lifespan(app))
            return await stack.enter_async_context(_listening(app, path))

        yield start


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the logs and caches of every server."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def demo(home: Path) -> Iterator[Server]:
    """The stack as in the README, with the demo profile: one for all who leave it as it was."""
    from tests.e2e.server import Server  # noqa: PLC0415  needs psutil, which not all runs have

    with Server(home, BENTOVOX_PROFILE="demo") as server:
        yield server
