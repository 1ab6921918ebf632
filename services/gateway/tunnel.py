"""Forwards a WebSocket to a backend and back, message by message.

uvicorn serves the client, `websockets` connects to the backend. Neither side is read until the
other has taken the last message, so that a tunnel buffers only a few.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from services.errors import BackendError, DeadlineError, UnavailableError
from services.gateway.headers import NOT_FORWARDED, NOT_RETURNED, end_to_end
from services.gateway.keys import is_key_subprotocol
from services.openai.errors import normalise
from services.openai.hangup import ClientGoneError, until_hangup
from services.racing import racing
from services.server.websocket import HungUpError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from websockets.asyncio.client import ClientConnection
    from websockets.http11 import Response

    from services.backends.address import Address
    from services.backends.backend import Backend
    from services.backends.connection import Connections
    from services.backends.pools import Pool

log = logging.getLogger("bentovox.gateway")

# Set anew by the handshake of each hop.
_HANDSHAKE: Final = frozenset(
    {
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
        b"user-agent",
    }
)
_OF_THE_BODY: Final = frozenset({b"content-type", b"content-length", b"content-encoding"})
_ERROR_FROM: Final = 400
_MESSAGE_LIMIT_BYTES: Final = 64 << 20
_HELD_FRAMES: Final = 4
_CLOSE_S: Final = 2.0
_QUIET_S: Final = 20.0
"""A backend silent for so long is pinged, and given up if it stays silent for as long again."""

_NORMAL: Final = 1000
_GOING_AWAY: Final = 1001
_NEVER_SENT: Final = frozenset({1004, 1005, 1006, 1015})  # RFC 6455, section 7.4.1


class Tunnel:
    """Forwards each path's WebSockets to a backend of its role."""

    def __init__(self, pools: Mapping[str, Pool], connect_timeout_s: float) -> None:
        """`pools` has the pool of each path."""
        self._pools = pools
        self._connect_timeout_s = connect_timeout_s

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Forward one connection until either side closes it.

        Raises:
            ServiceError: no backend accepts it, or the backend breaks off.
            HungUpError: the client hung up.
        """
        pool = self._pools[scope["bentovox.route"]]
        if not pool.ready:
            try:
                await until_hangup(receive, pool.until_ready())
            except ClientGoneError as exc:
                raise HungUpError from exc
        model = _model_of(scope, pool)
        backend = pool.pick(model)
        with ExitStack() as busy:
            busy.enter_context(backend.busy())
            try:
                try:
                    connection = await self._connect(backend, scope)
                except (DeadlineError, UnavailableError) as error:
                    # Whether it saw the handshake or not: no message has been sent.
                    busy.close()
                    backend = busy.enter_context(pool.other(backend, error, model).busy())
                    connection = await self._connect(backend, scope)
            except InvalidStatus as refused:
                await _pass_on(refused, send)
                return
            try:
                await _accept(connection, scope, send)
                await _carry(backend, connection, receive, send)
            finally:
                # Shielded, since the backend must stop its work even if this task is cancelled.
                await asyncio.shield(connection.close(_GOING_AWAY))

    async def _connect(self, backend: Backend, scope: Any) -> ClientConnection:
        """Return a connection that the backend has accepted.

        Raises:
            InvalidStatus: the backend refused with an HTTP status.
            UnavailableError: it cannot be reached.
            DeadlineError: it did not answer in time.
            BackendError: it is not a WebSocket server.
        """
        timeout_s = self._connect_timeout_s
        try:
            return await _Connect(
                _uri(backend.connections.address, scope),
                subprotocols=[
                    Subprotocol(one) for one in scope["subprotocols"] if not is_key_subprotocol(one)
                ]
                or None,
                additional_headers=_headers(scope),
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


async def _accept(connection: ClientConnection, scope: Any, send: Any) -> None:
    subprotocol = connection.subprotocol
    if subprotocol is None:
        # Browsers close the connection if none of the offered ones is accepted.
        subprotocol = next(
            (Subprotocol(one) for one in scope["subprotocols"] if is_key_subprotocol(one)), None
        )
    assert connection.response is not None  # noqa: S101  the handshake is done
    headers = end_to_end(_lowered(connection.response), NOT_RETURNED | _HANDSHAKE)
    await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers})


async def _carry(backend: Backend, connection: ClientConnection, receive: Any, send: Any) -> None:
    """Forward both ways until either side closes.

    Raises:
        BackendError: the backend broke off.
        HungUpError: the client hung up.
    """
    both = _to_backend(receive, connection), _to_client(connection, send)
    try:
        async with racing(*both) as (there, back):
            if not (there.done() and there.result()):  # otherwise the client closed
                await back
    except BackendError:
        log.warning("backend %s broke off a WebSocket", backend.name)
        raise


async def _to_backend(receive: Any, connection: ClientConnection) -> bool:
    """Forward the client's messages and its close; return False if the backend closed first."""
    while (message := await receive())["type"] == "websocket.receive":
        data = message.get("bytes")
        try:
            await connection.send(message["text"] if data is None else data)
        except ConnectionClosed:
            return False
    code = message.get("code", _NORMAL)
    await connection.close(_NORMAL if code in _NEVER_SENT else code, message.get("reason") or "")
    return True


async def _to_client(connection: ClientConnection, send: Any) -> None:
    """Forward the backend's messages and its close."""
    pong: asyncio.Future[float] | None = None
    while True:
        try:
            async with asyncio.timeout(_QUIET_S):
                data = await connection.recv()
        except TimeoutError as exc:
            if pong is not None and not pong.done():
                raise _broke_off() from exc
            with suppress(ConnectionClosed):  # the next `recv` raises it
                pong = asyncio.ensure_future(await connection.ping())
            continue
        except ConnectionClosed as exc:
            code = _NORMAL if connection.close_code == 1005 else connection.close_code  # noqa: PLR2004
            if code is None or code in _NEVER_SENT:
                raise _broke_off() from exc
            reason = connection.close_reason or ""
            await send({"type": "websocket.close", "code": code, "reason": reason})
            return
        kind = "text" if isinstance(data, str) else "bytes"
        await send({"type": "websocket.send", kind: data})


def _broke_off() -> BackendError:
    return BackendError("The backend broke off the connection.")


async def _pass_on(refused: InvalidStatus, send: Any) -> None:
    """Answer with the backend's error, in OpenAI's shape.

    Raises:
        BackendError: it is not an error, such as a redirect.
    """
    response = refused.response
    if response.status_code < _ERROR_FROM:
        raise BackendError("The backend did not accept the WebSocket.") from refused
    headers = end_to_end(_lowered(response), NOT_RETURNED | _HANDSHAKE | _OF_THE_BODY)
    start = {
        "type": "websocket.http.response.start",
        "status": response.status_code,
        "headers": [*headers, (b"content-type", b"application/json")],
    }
    body = normalise(response.status_code, bytes(response.body))
    await send(start)
    await send({"type": "websocket.http.response.body", "body": body})


def _lowered(response: Response) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in response.headers.raw_items()
    ]


def _model_of(scope: Any, pool: Pool) -> str | None:
    """Return the query's `model`, as in OpenAI's realtime API, if the backend depends on it."""
    if not pool.needs_model:
        return None
    found = parse_qs(scope["query_string"].decode("latin-1")).get("model")
    return found[0] if found else None


def _headers(scope: Any) -> list[tuple[str, str]]:
    kept = end_to_end(scope["headers"], NOT_FORWARDED | _HANDSHAKE)
    kept.append((b"x-request-id", scope["bentovox.request_id"]))
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in kept]


def _uri(address: Address, scope: Any) -> str:
    target: str = scope["raw_path"].decode("latin-1")
    if scope["query_string"]:
        target += "?" + scope["query_string"].decode("latin-1")
    return (
        f"{'wss' if address.tls else 'ws'}://{address.authority.decode()}{address.prefix}{target}"
    )


def _way(connections: Connections) -> dict[str, Any]:
    path = connections.address.path
    return {"ssl": connections.tls} if path is None else {"unix": True, "path": path}
