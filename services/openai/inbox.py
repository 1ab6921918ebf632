"""What a WebSocket's client has said and nobody has looked at yet; bounded.

It is read ahead, so that a hang-up is seen while the engine is at work. A client that is ahead by
more than `HELD_CHARACTERS` is read no further until some of it was taken.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.types import Receive

HELD_CHARACTERS: Final = 256 * 1024
_MESSAGE: Final = 64  # what an empty one weighs


class Inbox:
    """Messages in the order in which they came."""

    def __init__(self) -> None:
        self._messages: deque[str | bytes] = deque()
        self._weight = 0
        self._filled = asyncio.Event()
        self._room = asyncio.Event()

    async def serve(self, receive: Receive, session: Coroutine[None, None, None]) -> None:
        """Take a client's messages while `session` talks to it; end with whichever ends first.

        Raises:
            ServiceError: whatever either refuses.
        """
        reading = asyncio.ensure_future(self.fill(receive))
        talking = asyncio.ensure_future(session)
        try:
            await asyncio.wait({reading, talking}, return_when=asyncio.FIRST_COMPLETED)
            await (talking if talking.done() else reading)
        finally:
            for task in (reading, talking):
                task.cancel()
            await asyncio.gather(reading, talking, return_exceptions=True)

    async def fill(self, receive: Receive) -> None:
        """Take messages until the client hangs up.

        Raises:
            ServiceError: whatever `receive` refuses.
        """
        while (message := await receive())["type"] == "websocket.receive":
            data = message.get("bytes")
            said: str | bytes = message["text"] if data is None else data
            self._messages.append(said)
            self._weight += len(said) + _MESSAGE
            self._filled.set()
            while self._weight > HELD_CHARACTERS:
                self._room.clear()
                await self._room.wait()

    async def next(self) -> str | bytes:
        """Wait for the next message; nothing is lost if that is cancelled."""
        while not self._messages:
            self._filled.clear()
            await self._filled.wait()
        said = self._messages.popleft()
        self._weight -= len(said) + _MESSAGE
        self._room.set()
        return said

    async def next_unless(self, ending: asyncio.Event, within_s: float) -> str | bytes | None:
        """Wait for the next message; None when `ending` is set first.

        What has come in that moment is not lost.

        Raises:
            TimeoutError: neither happened within `within_s`.
        """
        said = asyncio.ensure_future(self.next())
        ended = asyncio.ensure_future(ending.wait())
        try:
            await asyncio.wait({said, ended}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            if said.done():
                return said.result()
            if ended.done():
                return None
        finally:
            said.cancel()
            ended.cancel()
        raise TimeoutError
