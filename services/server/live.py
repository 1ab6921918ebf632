"""The base of every live session: a client that talks over a WebSocket for as long as it likes.

It reads its client ahead, within a limit, so that it notices a hang-up while the engine is working,
and holds a slot only while there is work. What it raises becomes an error and a close code in
`services.server.websocket`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from services.errors import DeadlineError, ServiceError
from services.server.websocket import error_event
from services.tasks import racing

HELD_CHARACTERS: Final = 256 * 1024  # a client that is further ahead is not read for now
_MESSAGE: Final = 64  # what an empty one weighs


class Inbox:
    """What the client has sent and nobody has processed yet, in order and bounded."""

    def __init__(self) -> None:
        self._messages: deque[str | bytes] = deque()
        self._weight = 0
        self._filled = asyncio.Event()
        self._room = asyncio.Event()

    def __len__(self) -> int:
        return len(self._messages)

    async def fill(self, receive: Receive) -> None:
        """Read messages until the client hangs up, or raise what `receive` refuses."""
        while (message := await receive())["type"] == "websocket.receive":
            data = message.get("bytes")
            self.put(message["text"] if data is None else data)
            while self._weight > HELD_CHARACTERS:
                self._room.clear()
                await self._room.wait()

    def put(self, message: str | bytes) -> None:
        """Add a message."""
        self._messages.append(message)
        self._weight += len(message) + _MESSAGE
        self._filled.set()

    def take(self) -> str | bytes:
        """Remove and return the oldest message; there must be one."""
        message = self._messages.popleft()
        self._weight -= len(message) + _MESSAGE
        self._room.set()
        return message

    async def filled(self) -> None:
        """Wait until there is a message, without taking it."""
        while not self._messages:
            self._filled.clear()
            await self._filled.wait()

    async def next(self) -> str | bytes:
        """Wait for the next message and take it; cancelling loses nothing."""
        await self.filled()
        return self.take()


class LiveSession(ABC):
    """One accepted WebSocket, from its first message to its end.

    `slot` holds a slot of the role for a `with` block, or raises `OverloadedError`.
    """

    def __init__(self, scope: Scope, send: Send, inbox: Inbox | None = None) -> None:
        """Begin on the connection of `scope`; a custom `inbox` may inspect what arrives."""
        self.inbox = Inbox() if inbox is None else inbox
        self.slot: Callable[[], AbstractAsyncContextManager[None]] = scope["bentovox.slot"]
        self._draining: asyncio.Event = scope["bentovox.draining"]
        self._left: int | None = None  # messages still to be taken during shutdown
        self._asgi_send = send

    async def serve(self, receive: Receive) -> None:
        """Run the session until it ends or the client hangs up; a ServiceError ends it."""
        async with racing(self.inbox.fill(receive), self.run()) as (reading, running):
            await (running if running.done() else reading)

    @abstractmethod
    async def run(self) -> None:
        """Talk with the client until there is nothing more to say; may raise ServiceError."""

    async def next_message(self, within_s: float) -> str | bytes | None:
        """Return the client's next message; None when the server shuts down and none is left.

        DeadlineError if none arrived in time.
        """
        # Even if there is one already: other clients need a turn beside one that is far ahead.
        async with racing(self.inbox.filled(), self._draining.wait(), within_s=within_s):
            pass
        if self._draining.is_set():
            left = len(self.inbox) if self._left is None else self._left
            self._left = max(0, left - 1)
            return self.inbox.take() if left and self.inbox else None
        if self.inbox:
            return self.inbox.take()
        raise DeadlineError(f"no message came within {within_s:g} s", code="idle_timeout")

    async def send(self, message: str | bytes) -> None:
        """Send text, or bytes; wait for a client that is far behind, unless it has gone."""
        sent: dict[str, Any] = {"type": "websocket.send"}
        sent["text" if isinstance(message, str) else "bytes"] = message
        await self._asgi_send(sent)

    async def tell(self, error: ServiceError) -> None:
        """Send an error event; the session goes on."""
        await self.send(error_event(error))
