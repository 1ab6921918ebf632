"""Options for uvicorn's WebSocket beyond ASGI; BentoML passes it none of them.

- A message over the role's limit is refused by the parser before it is in memory (uvicorn: 16 MiB).
- Nothing is compressed: audio hardly shrinks, and each piece would cost the event loop time.
- Pings keep the connection alive for proxies in between, without a deadline for the pong: a client
  that plays audio as it reads answers only after reading everything sent before, and would be cut
  off after 20 s. `services.server.websocket` drops clients that read nothing at all.
- At shutdown the application is told to end first; uvicorn would close at once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

if TYPE_CHECKING:
    from collections.abc import Callable

DRAIN_S: Final = 15.0
"""How long an open WebSocket may go on after shutdown begins."""

_EXTENSIONS: Final = "Sec-WebSocket-Extensions"


class UvicornSocket:
    """The WebSocket behind ASGI's `send`; with another server, this does nothing."""

    def __init__(
        self, send: Any, *, message_limit_bytes: int, on_shutdown: Callable[[], None]
    ) -> None:
        """Set up a connection before it is accepted."""
        protocol = getattr(send, "__self__", None)
        if not isinstance(protocol, WebSocketsSansIOProtocol):
            self._protocol = None
            return
        self._protocol = protocol
        self._on_shutdown = on_shutdown
        self._cut = protocol.shutdown
        protocol.shutdown = self._drain  # type: ignore[method-assign]
        protocol.conn.max_message_size = message_limit_bytes
        protocol.conn.extensions = []
        if _EXTENSIONS in protocol.response.headers:
            del protocol.response.headers[_EXTENSIONS]
        protocol.ping_timeout = None

    def drop(self) -> None:
        """Drop the connection, with whatever is waiting to be sent."""
        if self._protocol is not None:
            self._protocol.transport.abort()

    def refused(self) -> None:
        """Note that the handshake was answered with HTTP, which uvicorn would log as an error."""
        if self._protocol is not None:
            self._protocol.handshake_complete = True

    def _drain(self) -> None:
        protocol = self._protocol
        if protocol is None or not protocol.handshake_complete or protocol.close_sent:
            self._cut()
            return
        self._on_shutdown()
        asyncio.get_running_loop().call_later(DRAIN_S, self._cut_if_open)

    def _cut_if_open(self) -> None:
        protocol = self._protocol
        if protocol is not None and not (protocol.disconnected or protocol.transport.is_closing()):
            self._cut()
