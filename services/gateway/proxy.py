"""Carries a request to a backend and the answer back, byte for byte."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from services.errors import BackendError, DeadlineError, UnavailableError, no_such_model
from services.gateway.asked import asked_model
from services.gateway.headers import NOT_FORWARDED, NOT_RETURNED, end_to_end
from services.gateway.upstream import REPEATABLE
from services.openai.body import header, pieces
from services.openai.documents import send_json
from services.server.writer import direct_writer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from services.gateway.backends import Backend, Pool, Pools
    from services.gateway.upstream import Connection
    from services.server.serving import Asgi

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
        # It is here already, as a rule: the shell gathers what is to take a slot.
        content_type = header(scope, b"content-type")
        most_bytes = self._most_bytes(content_type)
        body = deque([piece async for piece in pieces(scope, receive, most_bytes) if piece])
        model = None
        if pool.needs_model and scope["method"] == "POST":
            model = await asked_model(content_type, body)
        await _Exchange(self, pool, scope, receive, send).run(body, model)

    def _most_bytes(self, content_type: bytes) -> int:
        is_form = content_type.lower().startswith(b"multipart/form-data")
        gateway = self.pools.gateway
        return gateway.body_limit_bytes if is_form else gateway.json_limit_bytes

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

    async def run(self, body: deque[bytes], model: str | None) -> None:
        backend = self.pool.pick(model)
        backend.outstanding += 1
        try:
            try:
                connection = await self._begin(backend, body)
            except BackendError:
                if self.client_left:
                    return
                raise
            await self._carry_back(backend, connection)
        finally:
            backend.outstanding -= 1

    async def _begin(self, backend: Backend, body: deque[bytes]) -> Connection:
        """Send the request and return the connection once the answer's head is there."""
        data = self._head(backend, sum(map(len, body))) + (body.popleft() if body else b"")
        large = bool(body)
        repeatable = self.scope["method"] in REPEATABLE and not large
        try:
            connection, used = await backend.connections.take()
            try:
                return await self._ask(connection, data, body)
            except BackendError:
                # The backend closed a connection that had idled, in the moment in which it was
                # used, or it died at work: nobody knows what it has done (RFC 9110, section 9.2.2).
                if not (used and repeatable) or self.client_left:
                    raise
            # Its supervisor's socket would let the request wait for the next process.
            await backend.check_alive()
            connection, _ = await backend.connections.take(fresh=True)
            return await self._ask(connection, data, body)
        except UnavailableError:
            backend.mark(ready=False)  # the next probe will tell
            raise
        except BackendError:
            # A backend may well close the connection of a body that it does not want to read.
            if not (self.client_left or large):
                backend.mark(ready=False)
            raise

    async def _ask(self, connection: Connection, data: bytes, rest: deque[bytes]) -> Connection:
        connection.send(data, _taken(rest) if rest else None)
        watcher = asyncio.ensure_future(self._watch(connection))
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

    async def _watch(self, connection: Connection) -> None:
        """Wait for the client to hang up."""
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.client_left = True
        connection.abort(BackendError("The client hung up."))

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
            backend.connections.give_back(connection)

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

    def _head(self, backend: Backend, length: int) -> bytes:
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
        if length or scope["method"] == "POST":
            lines.append(b"content-length: %d" % length)
        lines += [b"", b""]
        return b"\r\n".join(lines)


def _taken(pieces_: deque[bytes]) -> Iterator[bytes]:
    """Yield the pieces; none is kept any longer."""
    while pieces_:
        yield pieces_.popleft()
