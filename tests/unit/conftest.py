"""A backend controlled by the test, and a gateway in front of it."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from services.conversation import routes as conversation_app
from services.gateway import routes as gateway_routes
from services.server.shell import Shell
from services.settings.sections import ConversationSettings, GatewaySettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from services.backends.pools import Pools


@dataclass
class Request:
    """A request as the backend received it."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    reader: asyncio.StreamReader | None = None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


class Backend:
    """A raw HTTP/1.1 server: `answer(request, writer)` writes the bytes of each answer."""

    def __init__(self, models: list[str]) -> None:
        self.models = models
        self.ready = True
        self.requests: list[Request] = []
        self.connections = 0
        self.url = ""
        self.answer: Callable[[Request, asyncio.StreamWriter], Awaitable[None]] = self.hello
        self.arrived = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def hello(self, _request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")

    def says(self, data: bytes, *, close: bool = False) -> None:
        """Answer every request with these bytes."""

        async def answer(_request: Request, writer: asyncio.StreamWriter) -> None:
            writer.write(data)
            if close:
                writer.close()

        self.answer = answer

    def drop_connections(self) -> None:
        """Close what is open, as a server does with connections that idle."""
        for writer in list(self._writers):
            writer.close()

    async def serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                request = await _read(reader)
                if request.line.startswith(("GET /readyz", "GET /v1/models")):
                    await self._about_itself(request, writer)
                    continue
                self.requests.append(request)
                self.arrived.set()
                await self.answer(request, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.close()

    async def _about_itself(self, request: Request, writer: asyncio.StreamWriter) -> None:
        cards = [{"id": name, "object": "model"} for name in self.models]
        body = json.dumps({"object": "list", "data": cards}).encode()
        status = b"200 OK" if self.ready else b"503 Service Unavailable"
        if not request.line.startswith("GET /v1/models"):
            body = b"{}"
        writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))

    async def end(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = [line.split(": ", 1) for line in head[1:] if line]
    request = Request(head[0], [(name.lower(), value) for name, value in pairs], reader=reader)
    if length := request.all("content-length"):
        request.body = await reader.readexactly(int(length[0]))
    elif request.all("transfer-encoding") == ["chunked"]:
        while size := int(await reader.readline(), 16):
            request.body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    return request


@pytest.fixture
async def backend() -> AsyncIterator[Callable[..., Awaitable[Backend]]]:
    """Return `await backend("model", ...)`, a `Backend` on a free port (or Unix socket)."""
    async with AsyncExitStack() as stack:

        async def start(*models: str, path: str | None = None) -> Backend:
            one = Backend(list(models) or ["m"])
            if path is None:
                server = await asyncio.start_server(one.serve_one, "127.0.0.1", 0)
                one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            else:
                server = await asyncio.start_unix_server(one.serve_one, path)
                one.url = f"file://{path}"
            stack.push_async_callback(one.end)
            stack.callback(server.close)
            return one

        yield start


class Door:
    """A gateway on uvicorn, whose backends were probed once."""

    def __init__(self, shell: Shell, url: str, asked: list[Pools]) -> None:
        self.shell = shell
        self.asked = asked
        self.url = url
        self.pools: Pools = shell.app.lifespan.__self__  # type: ignore[attr-defined]

    async def probe(self) -> None:
        for one in self.pools.backends():
            await one.probe()


@pytest.fixture
async def door(
    serve: Callable[..., Awaitable[str]],
) -> AsyncIterator[Callable[..., Awaitable[Door]]]:
    """Return `await door(chat=[...], speech=[...], transcription=[...], **settings)`, a `Door`.

    With `conversation={...}`, its settings, that role stands between the door and the others.
    """
    doors: list[Door] = []

    async def start(
        chat: list[str] | None = None,
        speech: list[str] | None = None,
        transcription: list[str] | None = None,
        conversation: dict[str, Any] | None = None,
        wrap: Callable[[Any], Any] = lambda shell: shell,
        **settings: Any,
    ) -> Door:
        gateway = GatewaySettings(**settings)
        given = {"chat": chat, "speech": speech, "transcription": transcription}
        backends = {role: urls or [] for role, urls in given.items()}
        asked: list[Pools] = []
        if conversation is not None:
            role = conversation_app.build(ConversationSettings(**conversation), backends)
            asked.append(role.lifespan.__self__)  # type: ignore[attr-defined]
            for one in asked[0].backends():
                await one.probe()
            backends["conversation"] = [await serve(Shell(role))]
        shell = Shell(gateway_routes.build(gateway, backends))
        doors.append(Door(shell, await serve(wrap(shell)), asked))
        await doors[-1].probe()
        return doors[-1]

    yield start
    for one in doors:
        for pools in (one.pools, *one.asked):
            for backend_ in pools.backends():
                backend_.connections.close()
