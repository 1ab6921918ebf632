"""What uvicorn's WebSocket is told beyond ASGI; BentoML passes it no option for any of it.

- A message over the role's limit is refused by its parser, before it is held (uvicorn: 16 MiB).
- Nothing is compressed: audio hardly shrinks, and each piece would cost the event loop its time.
- A ping keeps the connection open for what stands between, without a deadline for the pong: a
  client that plays audio as it reads answers only when it has read what was sent before, and would
  be cut off after 20 s. Who takes nothing at all is dropped by `services.websocket`.
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


def adapt(
    send: Any, *, message_limit_bytes: int, on_shutdown: Callable[[], None]
) -> Callable[[], None]:
    """Change the WebSocket behind ASGI's `send`, not accepted yet; return what drops it at once.

    Where another server or implementation is behind it nothing is changed, and dropping it does
    nothing.
    """
    protocol = getattr(send, "__self__", None)
    if not isinstance(protocol, WebSocketsSansIOProtocol):
        return _nothing
    protocol.conn.max_message_size = message_limit_bytes
    protocol.conn.extensions = []
    if _EXTENSIONS in protocol.response.headers:
        del protocol.response.headers[_EXTENSIONS]
    protocol.ping_timeout = None
    cut = protocol.shutdown

    def drain() -> None:
        if not protocol.handshake_complete or protocol.close_sent:
            cut()
            return
        on_shutdown()
        asyncio.get_running_loop().call_later(DRAIN_S, cut_if_open)

    def cut_if_open() -> None:
        if not (protocol.disconnected or protocol.transport.is_closing()):
            cut()

    def drop() -> None:
        protocol.transport.abort()

    protocol.shutdown = drain  # type: ignore[method-assign]
    return drop


def _nothing() -> None:
    """Do nothing."""
