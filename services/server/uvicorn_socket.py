"""What uvicorn's WebSocket is told beyond ASGI; BentoML passes it no option for any of it.

- A message over the role's limit is refused by its parser, before it is held (uvicorn: 16 MiB).
- Nothing is compressed: audio hardly shrinks, and each piece would cost the event loop its time.
- A ping keeps the connection open for what stands between, without a deadline for the pong: a
  client that plays audio as it reads answers only when it has read what was sent before, and would
  be cut off after 20 s. Who takes nothing at all is dropped by `services.server.websocket`.
- At shutdown the application is asked to end first; uvicorn would close in the same moment.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

if TYPE_CHECKING:
    from collections.abc import Callable

DRAIN_S: Final = 15.0
"""How long an open WebSocket may go on after shutdown has begun."""

_EXTENSIONS: Final = "Sec-WebSocket-Extensions"


class UvicornSocket:
    """The WebSocket behind ASGI's `send`; where another server is behind it, nothing happens."""

    def __init__(
        self, send: Any, *, message_limit_bytes: int, on_shutdown: Callable[[], None]
    ) -> None:
        """Set up a connection that is not accepted yet."""
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
        """Break the connection off, whatever waits to be sent."""
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
