"""Carries a request to a backend and the answer back, byte for byte."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from services.errors import (
    BackendError,
    DeadlineError,
    InvalidRequestError,
    ServiceError,
    UnavailableError,
    no_such_model,
)
from services.gateway.headers import NOT_FORWARDED, NOT_RETURNED, end_to_end
from services.openai.documents import send_json
from services.writer import direct_writer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.gateway.backends import Backend, Pool, Pools
    from services.gateway.upstream import Connection
    from services.shell import Asgi

_HELD_BYTES = 256 * 1024


class Proxy:
    """The gateway's routes: models and documents are answered here, the rest by a backend."""

    def __init__(
        self,
        pools: Pools,
        roles: dict[str, str],
        answer_timeout_s: float,
        documents: dict[str, dict[str, Any]],
        own: Mapping[str, Asgi],
    ) -> None:
        """Route the path templates of `roles` to the pool of the role each names.

        What `own` names is answered by the application it names.
        """
        self.documents = documents
        self.own = own
        self.pools = pools
        self.roles = roles
        self.answer_timeout_s = answer_timeout_s

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request.

        Raises:
            ServiceError: before the answer began: no backend, no such model, no answer in time;
                after it began: the backend broke off.
        """
        path: str = scope["path"]
        if path == "/v1/models" or path.startswith("/v1/models/"):
            await send_json(send, self._models(path))
            return
        if path in self.documents:
            await send_json(send, self.documents[path])
            return
        if path in self.own:
            await self.own[path](scope, receive, send)
            return
        pool = self.pools.by_role[self.roles[scope["bentovox.route"]]]
        body, more = await _first_body(receive)
        model = None
        if pool.needs_model and scope["method"] == "POST" and not _is_form(scope["headers"]):
            while more:
                piece, more = await _first_body(receive)
                body += piece
            model = _model_of(body)
        await _Exchange(self, pool, scope, receive, send).run(body, more=more, model=model)

    def _models(self, path: str) -> dict[str, Any]:
        cards = self.pools.models()
        if path == "/v1/models":
            return {"object": "list", "data": list(cards.values())}
        name = path.removeprefix("/v1/models/")
        if name not in cards:
            raise no_such_model(name)
        return cards[name]


class _Exchange:
    """One request on its way through a backend."""

    def __init__(self, proxy: Proxy, pool: Pool, scope: Any, receive: Any, send: Any) -> None:
        self.proxy = proxy
        self.pool = pool
        self.scope = scope
        self.receive = receive
        self.send = send
        self.client_left = False

    async def run(self, body: bytes, *, more: bool, model: str | None) -> None:
        backend = self.pool.pick(model)
        backend.outstanding += 1
        try:
            try:
                connection = await self._begin(backend, body, more=more)
            except BackendError:
                if self.client_left:
                    return
                raise
            await self._carry_back(backend, connection)
        finally:
            backend.outstanding -= 1

    async def _begin(self, backend: Backend, body: bytes, *, more: bool) -> Connection:
        """Send the request and return the connection once the answer's head is there."""
        head = self._head(backend, len(body), more=more)
        try:
            # A body that is still coming could not be sent twice: no connection that has idled.
            connection, used = await backend.connections.take(fresh=more)
            try:
                return await self._ask(connection, head, body, more=more)
            except BackendError:
                if not used or self.client_left:
                    raise
            # The backend closed a connection that had idled, in the moment in which it was used; or
            # it died, and its supervisor's socket would let the request wait for the next process.
            await backend.check_alive()
            connection, _ = await backend.connections.take(fresh=True)
            return await self._ask(connection, head, body, more=False)
        except UnavailableError:
            backend.mark(ready=False)  # the next probe will tell
            raise
        except BackendError:
            # A backend may well close the connection of a body that it does not want to read.
            if not (self.client_left or more):
                backend.mark(ready=False)
            raise

    async def _ask(
        self, connection: Connection, head: bytes, body: bytes, *, more: bool
    ) -> Connection:
        connection.send(head + (_chunk(body) if more else body))
        self._body_sent = not more
        watcher = asyncio.ensure_future(self._watch(connection, more=more))
        self._watcher = watcher
        try:
            async with asyncio.timeout(self.proxy.answer_timeout_s):
                await connection.head()
        except TimeoutError as exc:
            connection.abort()
            watcher.cancel()
            raise DeadlineError(
                f"The {self.pool.role} service did not answer within "
                f"{self.proxy.answer_timeout_s:g} s."
            ) from exc
        except BaseException:
            connection.abort()
            watcher.cancel()
            raise
        return connection

    async def _watch(self, connection: Connection, *, more: bool) -> None:
        """Send what is left of the body, then wait for the client to hang up."""
        try:
            while True:
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    self.client_left = True
                    connection.abort(BackendError("The client hung up."))
                    return
                if more:
                    more = message.get("more_body", False)
                    connection.write(_chunk(message.get("body", b"")))
                    if not more:
                        connection.write(b"0\r\n\r\n")
                        self._body_sent = True
        except ServiceError as error:  # the body is over the limit
            connection.abort(error)

    async def _carry_back(self, backend: Backend, connection: Connection) -> None:
        try:
            headers = end_to_end(connection.headers, NOT_RETURNED)
            await self.send(
                {"type": "http.response.start", "status": connection.status, "headers": headers}
            )
            if (writer := direct_writer(self.scope)) is not None:
                writer.on_pause = connection.pause
                writer.on_resume = connection.resume
                connection.flow_to(writer.write)
                await connection.ended()
            else:
                await self._carry_slowly(connection)
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})
        except BackendError:
            if not self.client_left:
                raise
        finally:
            self._watcher.cancel()
            if self._body_sent:
                backend.connections.give_back(connection)
            else:  # answered before it was asked in full: what follows would be read as the rest
                connection.abort()

    async def _carry_slowly(self, connection: Connection) -> None:
        """Carry the body through ASGI's send, for answers and servers without a direct way."""
        pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        held_bytes = 0

        def sink(piece: bytes) -> None:
            nonlocal held_bytes
            pieces.put_nowait(piece)
            held_bytes += len(piece)
            if held_bytes >= _HELD_BYTES:
                connection.pause()

        connection.flow_to(sink)
        end = asyncio.ensure_future(connection.ended())
        end.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                held_bytes -= len(piece)
                if held_bytes < _HELD_BYTES // 2:
                    connection.resume()
                await self.send({"type": "http.response.body", "body": piece, "more_body": True})
            await end
        finally:
            end.cancel()

    def _head(self, backend: Backend, length: int, *, more: bool) -> bytes:
        scope = self.scope
        target = scope["raw_path"]
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        # The answer to HEAD has a length and no body, which the parser would wait for;
        # uvicorn drops the body of the answer to GET.
        method = b"GET" if scope["method"] == "HEAD" else scope["method"].encode()
        lines = [b"%b %b HTTP/1.1" % (method, target)]
        lines.append(b"host: " + backend.connections.address.authority)
        headers = end_to_end(scope["headers"], NOT_FORWARDED)
        lines += [b"%b: %b" % pair for pair in headers]
        lines.append(b"x-request-id: " + scope["bentovox.request_id"])
        if more:
            lines.append(b"transfer-encoding: chunked")
        elif length or scope["method"] == "POST":
            lines.append(b"content-length: %d" % length)
        lines += [b"", b""]
        return b"\r\n".join(lines)


async def _first_body(receive: Any) -> tuple[bytes, bool]:
    message = await receive()
    return message.get("body", b""), message.get("more_body", False)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def _is_form(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(
        name == b"content-type" and value.lower().startswith(b"multipart/form-data")
        for name, value in headers
    )


def _model_of(body: bytes) -> str | None:
    try:
        parsed = json.loads(body)
    except ValueError as exc:
        raise InvalidRequestError(
            f"The body is not valid JSON: {exc}.", code="invalid_json"
        ) from exc
    model = parsed.get("model") if isinstance(parsed, dict) else None
    return model if isinstance(model, str) else None
