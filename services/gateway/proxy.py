"""Forwards a request to a backend and the answer back, byte for byte."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass
from typing import Any, Final

from services.backends.backend import Call
from services.backends.connection import Connection
from services.backends.pools import Pool
from services.gateway.body import affinity_of, field_of
from services.gateway.keys import Keys, has_key_in_body
from services.openai.body import header, pieces, until_hangup
from services.server.writer import direct_writer
from services.settings.sections import GatewaySettings

_UNKNOWN_BYTES: Final = 1 << 20  # of a body whose sender sent no key in a header
_OF_A_HOP: Final = frozenset(  # RFC 9110, section 7.6.1
    b"connection keep-alive proxy-authenticate proxy-connection te trailer transfer-encoding "
    b"upgrade".split()
)
# What the gateway sets itself. The client's key stays here, and the origin of its page, which was
# checked.
NOT_FORWARDED: Final = _OF_A_HOP.union(
    b"host origin proxy-authorization expect authorization x-api-key content-length "
    b"x-request-id x-forwarded-for x-forwarded-proto x-forwarded-host".split()
)
NOT_RETURNED: Final = _OF_A_HOP | {b"date", b"server"}
_USUAL_CONNECTION = frozenset({b"keep-alive", b"close"})


def end_to_end(
    headers: list[tuple[bytes, bytes]], dropped: frozenset[bytes]
) -> list[tuple[bytes, bytes]]:
    """Return the headers to forward: without `dropped` and those that Connection lists."""
    for name, value in headers:
        if name == b"connection" and value.lower() not in _USUAL_CONNECTION:
            dropped |= {token.strip().lower() for token in value.split(b",")}
    return [pair for pair in headers if pair[0] not in dropped]


@dataclass(frozen=True)
class Proxy:
    """Forwards each path's requests to a backend of its role."""

    _pools: Mapping[str, Pool]  # by path template
    _keys: Keys
    _gateway: GatewaySettings

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request, or raise ServiceError."""
        pool = self._pools[scope["bentovox.route"]]
        # As a rule it has arrived: the shell waits for it before it gives a slot.
        content_type = header(scope, b"content-type")
        # GET /languages has no body and needs no key.
        in_body = bool(self._keys) and scope["method"] == "POST" and has_key_in_body(scope)
        is_form = content_type.lower().startswith(b"multipart/form-data")
        gateway = self._gateway
        most_bytes = gateway.body_limit_bytes if is_form else gateway.json_limit_bytes
        most_bytes = _UNKNOWN_BYTES if in_body else most_bytes
        body = deque([piece async for piece in pieces(scope, receive, most_bytes) if piece])
        if in_body:
            key = await field_of("api_key", content_type, body, scope["query_string"])
            self._keys.check(key.encode("utf-8", "replace") if key else None)
        if not pool.ready:
            # One that waits for a role holds no slot of those who ask for another.
            async with scope.get("bentovox.aside", nullcontext)():
                await until_hangup(receive, pool.until_ready())
        model = affinity = None
        if pool.needs_model and scope["method"] == "POST":
            model = await field_of("model", content_type, body)
        if gateway.affinity_ahead and pool.has_choice and scope["method"] == "POST":
            affinity = affinity_of(scope, content_type, body)
        # The answer to HEAD has a length but no body, which the parser would wait for;
        # uvicorn drops the body of the answer to GET.
        method = b"GET" if scope["method"] == "HEAD" else scope["method"].encode()
        asked = pool.answering(Call(method, *asked_of(scope, NOT_FORWARDED), body), model, affinity)
        await until_hangup(receive, _carry_back(asked, scope, send))


def asked_of(scope: Any, dropped: frozenset[bytes]) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Return the target and the headers to forward, with the request's id."""
    target = scope["raw_path"]
    if scope["query_string"]:
        target += b"?" + scope["query_string"]
    return target, [
        *end_to_end(scope["headers"], dropped),
        (b"x-request-id", scope["bentovox.request_id"]),
    ]


async def _carry_back(
    asked: AbstractAsyncContextManager[Connection], scope: Any, send: Any
) -> None:
    async with asked as connection:
        headers = end_to_end(connection.headers, NOT_RETURNED)
        await send({"type": "http.response.start", "status": connection.status, "headers": headers})
        last = b""
        if (write := direct_writer(scope, connection.pause, connection.resume)) is not None:
            connection.flow_to(write)
            last = await connection.ended()
        else:
            async with aclosing(connection.pieces()) as body:
                async for piece in body:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": last, "more_body": False})
