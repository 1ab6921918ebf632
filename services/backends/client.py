"""Calls from one role to another for one request; the answer is read whole or as it arrives.

Cancelling a call drops the connection, which the backend takes for a client's hang-up, and stops.
WebSockets have `websockets` as the client.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from services.backends.backend import Backend, Call
from services.backends.connection import Connection, joined
from services.backends.pools import Pool, Pools
from services.errors import BackendError, DeadlineError, UnavailableError
from services.openai.errors import error_from
from services.openai.models import without_date

_WHOLE_BYTES: Final = 8 << 20  # no expected answer is larger
_ERROR_BYTES: Final = 1 << 20
_EVENT_BYTES: Final = 8 << 20
_END: Final = b"[DONE]"
_MESSAGE_LIMIT_BYTES: Final = 64 << 20
_HELD_FRAMES: Final = 4
_CLOSE_S: Final = 2.0
_GOING_AWAY: Final = 1001


@dataclass(frozen=True)
class Question:
    """What to ask."""

    role: str
    path: str
    body: Sequence[bytes] | None = None  # in parts that need not be joined; None makes it a GET
    content_type: str = "application/json"
    model: str | None = None  # ask only a backend that serves it; None takes any

    @classmethod
    def of(cls, role: str, path: str, fields: dict[str, Any], model: str | None = None) -> Question:
        """Return a question whose body is `fields` as JSON."""
        return cls(role, path, [json.dumps(fields, ensure_ascii=False).encode()], model=model)


@dataclass(frozen=True)
class Caller:
    """Asks backends on behalf of one request, under its id."""

    _pools: Pools
    _request_id: bytes  # is sent as `x-request-id`

    async def card(self, role: str, model: str | None = None) -> dict[str, Any]:
        """Return the card of a model that the role serves now: `model`, or the first one listed.

        Waits for a role without a ready backend, as long as settings allow. Raises NotFoundError or
        UnavailableError.
        """
        pool = self._pools.by_role[role]
        await pool.until_ready()
        backend = pool.pick(model)
        if model is not None:
            return backend.models.get(model) or backend.models[without_date(model)]
        if pool.needs_model:  # always the same one, not that of the least busy backend
            backend = next(one for one in pool.backends if one.ready)
        if card := next(iter(backend.models.values()), None):
            return card
        raise UnavailableError(f"The {role} service has not told its models yet.", retry_after_s=2)

    async def json(self, question: Question) -> dict[str, Any]:
        """Return the whole answer, a JSON object; raises as `answer` does."""
        async with self.answer(question) as answer:
            return answer.parsed(await joined(answer.pieces(), _WHOLE_BYTES))

    @asynccontextmanager
    async def answer(self, question: Question) -> AsyncIterator[Answer]:
        """Ask, and yield the answer once its head is there; the unread rest is dropped.

        BackendError if it broke off, DeadlineError if it did not answer in time; if it refused,
        that error with its own status, message, param and code.
        """
        pool = self._pools.by_role[question.role]
        await pool.until_ready()
        headers = [(b"x-request-id", self._request_id)]
        if question.body is not None:
            headers.append((b"content-type", question.content_type.encode()))
        method = b"GET" if question.body is None else b"POST"
        call = Call(method, question.path.encode(), headers, deque(question.body or ()))
        async with pool.answering(call, question.model) as connection:
            answer = Answer(connection, question, self._pools.answer_timeout_s)
            if connection.status >= HTTPStatus.BAD_REQUEST:
                raise await answer.refusal()
            yield answer

    @asynccontextmanager
    async def socket(self, role: str, target: str) -> AsyncIterator[ClientConnection]:
        """Yield a WebSocket to a backend, closed at the end; `target` is its path."""
        pool = self._pools.by_role[role]
        await pool.until_ready()
        headers = [("x-request-id", self._request_id.decode("latin-1"))]
        try:
            async with opened(pool, target, headers) as (_, connection):
                yield connection
        except InvalidStatus as refused:
            response = refused.response
            raise error_from(response.status_code, bytes(response.body)) from refused


@dataclass(frozen=True)
class Answer:
    """A backend's answer as it arrives."""

    _connection: Connection
    _question: Question
    _timeout_s: float

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it arrives; while nobody takes it, the backend is not read.

        BackendError if it breaks off before its end, DeadlineError if it is silent for too long.
        """
        return self._connection.pieces(self._timeout_s, f"The {self._question.role} service")

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the JSON object of each server-sent event, down to `[DONE]` or the end.

        Raises as `pieces` does; and if an event is an error, that.
        """
        rest = b""
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                *blocks, rest = (rest + piece.replace(b"\r", b"")).split(b"\n\n")
                for block in blocks:
                    data = b"\n".join(
                        line[5:].strip() for line in block.split(b"\n") if line[:5] == b"data:"
                    )
                    if not data or data == _END:
                        continue
                    event = self.parsed(data)
                    if event.get("type") == "error" or "error" in event:
                        # The head said 200, so this is not the client's fault.
                        raise error_from(HTTPStatus.INTERNAL_SERVER_ERROR, data)
                    yield event
                if len(rest) > _EVENT_BYTES:
                    raise BackendError(f"An event is over {_EVENT_BYTES} bytes.")

    def parsed(self, data: bytes) -> dict[str, Any]:
        """Return the JSON object in `data`, or raise BackendError."""
        found = None
        with suppress(ValueError):
            found = json.loads(data)
        if not isinstance(found, dict):
            raise BackendError(f"The {self._question.role} service's answer cannot be read.")
        return found

    async def refusal(self) -> Exception:
        """Return the backend's refusal as the error that it was there."""
        body = await joined(self.pieces(), _ERROR_BYTES)
        headers = dict(self._connection.headers)
        wait_ms, wait_s = headers.get(b"retry-after-ms", b""), headers.get(b"retry-after", b"")
        retry_after_s = None
        if wait_ms.isdigit():
            retry_after_s = int(wait_ms) / 1000
        elif wait_s.isdigit():  # a proxy between the roles sends no milliseconds
            retry_after_s = float(wait_s)
        return error_from(self._connection.status, body, retry_after_s)


@asynccontextmanager
async def opened(
    pool: Pool,
    target: str,
    headers: Sequence[tuple[str, str]],
    subprotocols: Sequence[str] = (),
    model: str | None = None,
) -> AsyncIterator[tuple[Backend, ClientConnection]]:
    """Yield a backend of the pool and a WebSocket that it has accepted; close it at the end.

    `target` is the path with its query, and `subprotocols` are offered. InvalidStatus if the
    backend refused with an HTTP status.
    """
    # Another may be tried whether the first saw the handshake or not: no message has been sent.
    asked = pool.reached(lambda one: _connection(one, target, headers, subprotocols), model)
    async with asked as (backend, there):
        try:
            yield backend, there
        finally:
            # Shielded, since the backend must stop its work even if this task is cancelled.
            await asyncio.shield(there.close(_GOING_AWAY))


async def _connection(
    backend: Backend, target: str, headers: Sequence[tuple[str, str]], subprotocols: Sequence[str]
) -> ClientConnection:
    address = backend.connections.address
    timeout_s, tls = backend.connect_timeout_s, backend.connections.tls
    scheme = "wss" if address.tls else "ws"
    try:
        return await _Connect(
            f"{scheme}://{address.authority.decode()}{address.prefix}{target}",
            subprotocols=[Subprotocol(one) for one in subprotocols] or None,
            additional_headers=headers,
            user_agent_header=None,
            compression=None,  # an internal hop
            proxy=None,
            open_timeout=timeout_s,
            close_timeout=_CLOSE_S,
            ping_interval=None,  # its timeout would end connections of clients that read slowly
            max_size=_MESSAGE_LIMIT_BYTES,
            max_queue=_HELD_FRAMES,
            **({"unix": True, "path": address.path} if address.path else {"ssl": tls}),
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
