"""WebSockets to backends, for `websockets` as the client."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from services.errors import BackendError, DeadlineError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from websockets.asyncio.client import ClientConnection

    from services.backends.backend import Backend
    from services.backends.connection import Connections
    from services.backends.pools import Pool

_MESSAGE_LIMIT_BYTES: Final = 64 << 20
_HELD_FRAMES: Final = 4
_CLOSE_S: Final = 2.0
_GOING_AWAY: Final = 1001


@dataclass(frozen=True)
class Handshake:
    """What a WebSocket begins with: the path with its query, headers, offered subprotocols."""

    target: str
    headers: Sequence[tuple[str, str]]
    subprotocols: Sequence[str] = ()


@asynccontextmanager
async def opened(
    pool: Pool, handshake: Handshake, model: str | None = None
) -> AsyncIterator[tuple[Backend, ClientConnection]]:
    """Yield a backend of the pool and a connection that it has accepted; close it at the end.

    A backend that could not be reached in time is replaced by another one, once.

    Raises:
        InvalidStatus: the backend refused with an HTTP status.
        ServiceError: as for `Pool.pick`; or no backend can be reached, or it is not a WebSocket
            server.
    """
    backend = pool.pick(model)
    with ExitStack() as busy:
        busy.enter_context(backend.busy())
        try:
            connection = await _connection(backend, handshake)
        except (DeadlineError, UnavailableError) as error:
            # Whether it saw the handshake or not: no message has been sent.
            busy.close()
            backend = busy.enter_context(pool.other(backend, error, model).busy())
            connection = await _connection(backend, handshake)
        try:
            yield backend, connection
        finally:
            # Shielded, since the backend must stop its work even if this task is cancelled.
            await asyncio.shield(connection.close(_GOING_AWAY))


async def _connection(backend: Backend, handshake: Handshake) -> ClientConnection:
    address = backend.connections.address
    timeout_s = backend.connect_timeout_s
    scheme = "wss" if address.tls else "ws"
    try:
        return await _Connect(
            f"{scheme}://{address.authority.decode()}{address.prefix}{handshake.target}",
            subprotocols=[Subprotocol(one) for one in handshake.subprotocols] or None,
            additional_headers=handshake.headers,
            user_agent_header=None,
            compression=None,  # an internal hop
            proxy=None,
            open_timeout=timeout_s,
            close_timeout=_CLOSE_S,
            ping_interval=None,  # its timeout would end connections of clients that read slowly
            max_size=_MESSAGE_LIMIT_BYTES,
            max_queue=_HELD_FRAMES,
            **_way(backend.connections),
        )
    except TimeoutError as exc:
        raise DeadlineError(
            f"The {backend.role} service did not accept the connection within {timeout_s:g} s.",
            retry_after_s=2,
        ) from exc
    except OSError as exc:
        backend.mark(ready=False)  # until the next probe
        raise UnavailableError("The backend cannot be reached.", retry_after_s=2) from exc
    except InvalidStatus:
        raise
    except (InvalidHandshake, EOFError) as exc:
        raise BackendError("The backend broke off the handshake.") from exc


class _Connect(connect):
    """A connection that follows no redirects: the operator says where backends are."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def _way(connections: Connections) -> dict[str, Any]:
    path = connections.address.path
    return {"ssl": connections.tls} if path is None else {"unix": True, "path": path}
