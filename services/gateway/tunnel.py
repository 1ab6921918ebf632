"""Forwards a WebSocket to a backend and back, message by message.

uvicorn serves the client, `websockets` connects to the backend. Neither side is read until the
other has taken the last message, so that a tunnel buffers only a few.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Response

from services.backends.backend import Backend
from services.backends.client import opened
from services.backends.pools import Pool
from services.errors import BackendError
from services.gateway.keys import is_key_subprotocol
from services.gateway.proxy import NOT_FORWARDED, NOT_RETURNED, asked_of, end_to_end
from services.openai.body import until_hangup
from services.openai.errors import normalise
from services.openai.models import without_date
from services.openai.paths import SOCKETS
from services.openai.realtime import query_of
from services.tasks import racing

log = logging.getLogger("bentovox.gateway")

_HANDSHAKE: Final = frozenset(  # set anew by the handshake of each hop
    b"sec-websocket-accept sec-websocket-extensions sec-websocket-key sec-websocket-protocol "
    b"sec-websocket-version user-agent".split()
)
_OF_THE_BODY: Final = frozenset({b"content-type", b"content-length", b"content-encoding"})
_QUIET_S: Final = 20.0  # then a backend is pinged, and after as long again given up
_NORMAL: Final = 1000
_NEVER_SENT: Final = frozenset({1004, 1005, 1006, 1015})  # RFC 6455, section 7.4.1
_BROKE_OFF: Final = "The backend broke off the connection."


@dataclass(frozen=True)
class Tunnel:
    """Forwards each path's WebSockets to a backend of its role."""

    _pools: Mapping[str, Pool]  # by role

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Forward one connection until either side closes it."""
        query = query_of(scope)
        named = query.get("model", [""])[0]
        pool = self._pool_for(scope, query.get("intent"), named)
        if not pool.ready:
            await until_hangup(receive, pool.until_ready())
        model = named if named and pool.needs_model else None
        target, kept = asked_of(scope, NOT_FORWARDED | _HANDSHAKE)
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in kept]
        offered = [one for one in scope["subprotocols"] if not is_key_subprotocol(one)]
        try:
            asked = opened(pool, target.decode("latin-1"), headers, offered, model)
            async with asked as (backend, there):
                await _accept(there, scope, send)
                if session := scope.get("bentovox.session"):  # of a client secret
                    await there.send(json.dumps({"type": "session.update", "session": session}))
                await _carry(backend, there, receive, send)
        except InvalidStatus as refused:
            await _pass_on(refused, send)

    def _pool_for(self, scope: Any, intent: list[str] | None, model: str) -> Pool:
        """Return the pool of the role that serves the path.

        Two serve realtime sessions: transcription those with that intent, or with a model that
        only it has, and conversation all others.
        """
        roles = SOCKETS[scope["bentovox.route"]]
        pools = [self._pools[role] for role in roles if role in self._pools]
        if len(pools) == 1:
            return pools[0]
        transcription, conversation = pools
        named = any(without_date(model) in one.models for one in transcription.backends)
        kind = scope.get("bentovox.session", {}).get("type")
        wanted = intent == ["transcription"] or named or kind == "transcription"
        return transcription if wanted else conversation


async def _accept(connection: ClientConnection, scope: Any, send: Any) -> None:
    # Browsers close the connection if none of the offered ones is accepted.
    keys = filter(is_key_subprotocol, scope["subprotocols"])
    subprotocol = connection.subprotocol or next(keys, None)
    assert connection.response is not None  # noqa: S101  the handshake is done
    headers = end_to_end(_lowered(connection.response), NOT_RETURNED | _HANDSHAKE)
    await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers})


async def _carry(backend: Backend, connection: ClientConnection, receive: Any, send: Any) -> None:
    """Forward both ways until either side closes."""
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
                raise BackendError(_BROKE_OFF) from exc
            with suppress(ConnectionClosed):  # the next `recv` raises it
                pong = asyncio.ensure_future(await connection.ping())
            continue
        except ConnectionClosed as exc:
            code = _NORMAL if connection.close_code == 1005 else connection.close_code  # noqa: PLR2004
            if code is None or code in _NEVER_SENT:
                raise BackendError(_BROKE_OFF) from exc
            reason = connection.close_reason or ""
            await send({"type": "websocket.close", "code": code, "reason": reason})
            return
        kind = "text" if isinstance(data, str) else "bytes"
        await send({"type": "websocket.send", kind: data})


async def _pass_on(refused: InvalidStatus, send: Any) -> None:
    """Answer with the backend's error, in OpenAI's shape."""
    response = refused.response
    if response.status_code < HTTPStatus.BAD_REQUEST:
        raise BackendError("The backend did not accept the WebSocket.") from refused
    status = response.status_code
    headers = end_to_end(_lowered(response), NOT_RETURNED | _HANDSHAKE | _OF_THE_BODY)
    headers.append((b"content-type", b"application/json"))
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    body = normalise(status, bytes(response.body))
    await send({"type": "websocket.http.response.body", "body": body})


def _lowered(response: Response) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in response.headers.raw_items()
    ]
