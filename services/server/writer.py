"""Writes a streamed answer straight to the client's connection.

ASGI's `send` is a coroutine in every layer, at a cost for each token. If the server is uvicorn and
the answer is chunked, the bytes can go to its transport with the same framing; the answer's head
and end still go through `send`, so that uvicorn's state stays right. Otherwise `direct_writer`
returns None, and the caller uses `send`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

if TYPE_CHECKING:
    from collections.abc import Callable


class DirectWriter:
    """The body of one chunked answer, written without a coroutine."""

    def __init__(
        self,
        cycle: RequestResponseCycle,
        on_first: Callable[[], None],
        on_pause: Callable[[], None],
        on_resume: Callable[[], None],
    ) -> None:
        self._on_pause = on_pause
        self._on_resume = on_resume
        self._cycle = cycle
        self._on_first: Callable[[], None] | None = on_first
        self._resuming: asyncio.Task[None] | None = None

    def write(self, data: bytes) -> None:
        """Send a piece of the body; tell when the client reads too slowly, and when no more."""
        cycle = self._cycle
        if cycle.disconnected or not data:
            return
        cycle.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        if self._on_first is not None:
            self._on_first()
            self._on_first = None
        if cycle.flow.write_paused and self._resuming is None:
            self._on_pause()
            self._resuming = asyncio.ensure_future(self._resume())

    async def _resume(self) -> None:
        await self._cycle.flow.drain()
        self._resuming = None
        self._on_resume()


def direct_writer(
    scope: Any, on_pause: Callable[[], None], on_resume: Callable[[], None]
) -> DirectWriter | None:
    """Return the writer for a request whose answer has begun, or None if `send` must do."""
    cycle = getattr(scope.get("bentovox.send"), "__self__", None)
    if (
        not isinstance(cycle, RequestResponseCycle)
        or not cycle.response_started
        or cycle.response_complete
        or not cycle.chunked_encoding
        or cycle.scope["method"] == "HEAD"
    ):
        return None
    return DirectWriter(cycle, scope["bentovox.on_first_byte"], on_pause, on_resume)
