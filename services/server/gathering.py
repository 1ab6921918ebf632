"""Gathers what is written to a client within one turn of the event loop into one system call.

That call, and the waking of the reader, is most of what a streamed event costs. The head of an
answer and its first events are as a rule written in one turn, and so are the last one and the end;
and those of many streams go out one after the other, so that a reader finds more at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio

MOST_BYTES: Final = 16 * 1024
"""So much is written at once: flow control has to know of it."""


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
