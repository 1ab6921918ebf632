"""How bytes get to a client of uvicorn at the least price: gathered, and past ASGI's `send`.

A system call, and the waking of the reader, is most of what a streamed event costs. So what is
written within one turn of the event loop goes out in one call.

`send` is a coroutine in every layer, at a cost for each token. If the server is uvicorn and the
answer is chunked, the bytes of a stream go to its transport with the same framing; the answer's
head and end still go through `send`, so that uvicorn's state stays right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

MOST_BYTES: Final = 16 * 1024  # so much is written at once: flow control has to know of it


class Gathering:
    """A client's transport that writes at the end of the turn; apart from that, it is `bare`."""

    def __init__(self, bare: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.bare = bare
        self.is_closing = bare.is_closing  # looked at for each request
        self._loop = loop
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0

    def write(self, data: bytes) -> None:
        """Write `data` soon, or at once if it is much."""
        if not self._gathered:
            self._loop.call_soon(self.flush)
        self._gathered.append(data)
        self._gathered_bytes += len(data)
        if self._gathered_bytes >= MOST_BYTES:
            self.flush()

    def write_now(self, data: bytes) -> None:
        """Write `data`, which is all for now: to wait for the end of the turn has its price too."""
        if self._gathered:
            self._gathered.append(data)
            self.flush()
        elif not self.is_closing():
            self.bare.write(data)

    def flush(self) -> None:
        """Write what was gathered, unless the connection is closed."""
        if self._gathered and not self.is_closing():
            self.bare.write(b"".join(self._gathered))
        self._gathered.clear()
        self._gathered_bytes = 0

    def close(self) -> None:
        """Close the connection once everything has been sent."""
        self.flush()
        self.bare.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bare, name)


def direct_writer(
    scope: Any, on_pause: Callable[[], None], on_resume: Callable[[], None]
) -> Callable[[bytes], None] | None:
    """Return what sends a piece of the body of an answer that has begun, without a coroutine.

    It tells when the client reads too slowly, and when no more. None if ASGI's `send` must do.
    """
    cycle = getattr(scope.get("bentovox.send"), "__self__", None)
    if (
        not isinstance(cycle, RequestResponseCycle)
        or not isinstance(transport := cycle.transport, Gathering)
        or not cycle.chunked_encoding  # as uvicorn decides with the head; never for HEAD
    ):
        return None
    on_first: Callable[[], None] | None = scope["bentovox.on_first_byte"]
    resuming: asyncio.Task[None] | None = None

    async def resume() -> None:
        nonlocal resuming
        await cycle.flow.drain()
        resuming = None
        on_resume()

    def write(data: bytes) -> None:
        nonlocal resuming, on_first
        if cycle.disconnected or not data:
            return
        transport.write_now(b"%x\r\n%b\r\n" % (len(data), data))
        if on_first is not None:
            on_first()
            on_first = None
        if cycle.flow.write_paused and resuming is None:
            on_pause()
            resuming = asyncio.ensure_future(resume())

    return write
