"""What the gateway itself asks of a backend, as part of answering a request.

`Proxy` carries a client's bytes; a `Caller` asks on behalf of one request and reads the answer,
whole or as it is streamed. Cancelling whoever waits here drops the connection, and a backend takes
that for a client that hung up, and stops.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from services.errors import BackendError, DeadlineError, UnavailableError
from services.openai.errors import error_from, normalise

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence

    from services.gateway.backends import Backend, Pools
    from services.gateway.upstream import Connection

HELD_BYTES: Final = 64 * 1024
"""What of a streamed answer waits here at most before the backend is read no further."""

_WHOLE_BYTES: Final = 8 << 20  # more is no answer that anything here asks for
_ERROR_BYTES: Final = 1 << 20
_EVENT_BYTES: Final = 8 << 20
_ERROR_FROM: Final = 400
_END: Final = b"[DONE]"


@dataclass(frozen=True)
class Question:
    """What to ask.

    Attributes:
        role: whose backend is asked.
        path: of the endpoint.
        body: the whole body, in parts that need not be joined; None makes it a GET.
        content_type: of the body.
        model: only a backend that serves it; None takes any.
    """

    role: str
    path: str
    body: Sequence[bytes] | None = None
    content_type: str = "application/json"
    model: str | None = None

    @classmethod
    def of(cls, role: str, path: str, fields: dict[str, Any], model: str | None = None) -> Question:
        """Return a question whose body is `fields` as JSON."""
        return cls(role, path, [json.dumps(fields, ensure_ascii=False).encode()], model=model)

    @property
    def body_bytes(self) -> int:
        """How long the body is."""
        return sum(map(len, self.body or ()))


class Caller:
    """Asks backends for one request, under its id."""

    def __init__(self, pools: Pools, request_id: bytes) -> None:
        """Ask the backends of `pools`; `request_id` goes along as `x-request-id`."""
        self._pools = pools
        self._request_id = request_id
        self._timeout_s = pools.gateway.answer_timeout_s

    def card(self, role: str, model: str | None = None) -> dict[str, Any]:
        """Return the card of a model that the role serves now: `model`, or the first it names.

        Raises:
            NotFoundError: none that is ready serves `model`.
            UnavailableError: none is ready, or has told its models.
        """
        pool = self._pools.by_role[role]
        backend = pool.pick(model)
        if model is not None:
            return backend.models[model]
        if pool.needs_model:  # always the same one, not that of whoever has least to do
            backend = next(one for one in pool.backends if one.ready)
        for card in backend.models.values():
            return card
        raise UnavailableError(f"The {role} service has not told its models yet.", retry_after_s=2)

    async def json(self, question: Question) -> dict[str, Any]:
        """Return the whole answer, a JSON object.

        Raises:
            ServiceError: as for `answer`; or the answer is no such object.
        """
        async with self.answer(question) as answer:
            body = await answer.whole(_WHOLE_BYTES)
        try:
            parsed = json.loads(body)
        except ValueError as exc:
            raise _nonsense(question) from exc
        if not isinstance(parsed, dict):
            raise _nonsense(question)
        return parsed

    @asynccontextmanager
    async def answer(self, question: Question) -> AsyncIterator[Answer]:
        """Ask, and give the answer once its head is there; what is left of it is given up.

        Raises:
            ServiceError: no backend is ready, or it refused, in its own words: the same status,
                param and code.
            BackendError: it broke off or answered nonsense.
            DeadlineError: it did not answer in time.
        """
        pool = self._pools.by_role[question.role]
        backend = pool.pick(question.model)
        backend.outstanding += 1
        connection: Connection | None = None
        try:
            connection = await self._begin(backend, question)
            answer = Answer(connection, question, self._timeout_s)
            if connection.status >= _ERROR_FROM:
                raise await answer.refusal()
            yield answer
        finally:
            backend.outstanding -= 1
            if connection is not None:
                backend.connections.give_back(connection)  # aborts what is not complete

    async def _begin(self, backend: Backend, question: Question) -> Connection:
        """Send the question; a GET once more where it met a connection that was being closed."""
        try:
            connection, used = await backend.connections.take()
            try:
                return await self._ask(connection, backend, question)
            except BackendError:
                if not used or question.body is not None:
                    raise
            await backend.check_alive()
            connection, _ = await backend.connections.take(fresh=True)
            return await self._ask(connection, backend, question)
        except UnavailableError:
            backend.mark(ready=False)  # the next probe will tell
            raise
        except BackendError:
            # A backend may well close the connection of a body that it does not want to read.
            if question.body_bytes <= HELD_BYTES:
                backend.mark(ready=False)
            raise

    async def _ask(
        self, connection: Connection, backend: Backend, question: Question
    ) -> Connection:
        method = b"GET" if question.body is None else b"POST"
        head = [
            b"%b %b HTTP/1.1" % (method, question.path.encode()),
            b"host: " + backend.connections.address.authority,
            b"x-request-id: " + self._request_id,
        ]
        if question.body is not None:
            head.append(b"content-type: " + question.content_type.encode())
            head.append(b"content-length: %d" % question.body_bytes)
        try:
            connection.send(*_cut(b"\r\n".join([*head, b"", b""]), question.body or ()))
            async with asyncio.timeout(self._timeout_s):
                await connection.head()
        except TimeoutError as exc:
            connection.abort()
            raise _late(question, self._timeout_s) from exc
        except BaseException:
            connection.abort()
            raise
        return connection


class Answer:
    """A backend's answer on its way in."""

    def __init__(self, connection: Connection, question: Question, timeout_s: float) -> None:
        self._connection = connection
        self._question = question
        self._timeout_s = timeout_s

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes; while nobody takes it, the backend is not read.

        Raises:
            BackendError: it broke off before its end.
            DeadlineError: it was silent for too long.
        """
        connection = self._connection
        held: deque[bytes] = deque()
        held_bytes = 0
        news = asyncio.Event()

        def sink(piece: bytes) -> None:
            nonlocal held_bytes
            held.append(piece)
            held_bytes += len(piece)
            if held_bytes > HELD_BYTES:
                connection.pause()
            news.set()

        connection.flow_to(sink)
        end = asyncio.ensure_future(connection.ended())
        end.add_done_callback(lambda _: news.set())
        try:
            while True:
                while held:
                    piece = held.popleft()
                    held_bytes -= len(piece)
                    if held_bytes <= HELD_BYTES // 2:
                        connection.resume()
                    yield piece
                if end.done():
                    break
                news.clear()
                try:
                    async with asyncio.timeout(self._timeout_s):
                        await news.wait()
                except TimeoutError as exc:
                    raise _late(self._question, self._timeout_s) from exc
            await end  # raises if it broke off
        finally:
            end.cancel()
            connection.resume()  # it may serve again

    async def whole(self, most_bytes: int) -> bytes:
        """Return the whole body.

        Raises:
            BackendError: as for `pieces`, or it is over `most_bytes`.
        """
        body = bytearray()
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) > most_bytes:
                    raise _nonsense(self._question)
        return bytes(body)

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the JSON object of each server-sent event, down to `[DONE]` or the end.

        Raises:
            ServiceError: as for `pieces`; or an event is an error, which it tells in its words.
        """
        rest = bytearray()
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                rest += piece.replace(b"\r", b"")
                while (end := rest.find(b"\n\n")) >= 0:
                    block = bytes(rest[:end])
                    del rest[: end + 2]
                    data = b"\n".join(
                        line[5:].strip() for line in block.split(b"\n") if line[:5] == b"data:"
                    )
                    if data and data != _END:
                        yield self._event(data)
                if len(rest) > _EVENT_BYTES:
                    raise _nonsense(self._question)

    def _event(self, data: bytes) -> dict[str, Any]:
        try:
            event = json.loads(data)
        except ValueError as exc:
            raise _nonsense(self._question) from exc
        if not isinstance(event, dict):
            raise _nonsense(self._question)
        if event.get("type") == "error" or "error" in event:
            # Its head said 200: what follows is no fault of the client.
            status = 500
            raise error_from(status, normalise(status, data), None)
        return event

    async def refusal(self) -> Exception:
        """Return what the backend refuses with, as the error that it was there."""
        status = self._connection.status
        body = await self.whole(_ERROR_BYTES)
        headers = dict(self._connection.headers)
        wait_ms, wait_s = headers.get(b"retry-after-ms", b""), headers.get(b"retry-after", b"")
        retry_after_s = None
        if wait_ms.isdigit():
            retry_after_s = int(wait_ms) / 1000
        elif wait_s.isdigit():
            retry_after_s = float(wait_s)
        return error_from(status, normalise(status, body), retry_after_s)


def _cut(head: bytes, body: Sequence[bytes]) -> tuple[bytes, Iterator[bytes] | None]:
    """Return what is sent at once, and the pieces in which a large body follows."""
    if sum(map(len, body)) <= HELD_BYTES:
        return b"".join((head, *body)), None
    return head, (
        part[at : at + HELD_BYTES] for part in body for at in range(0, len(part), HELD_BYTES)
    )


def _nonsense(question: Question) -> BackendError:
    return BackendError(f"The {question.role} service's answer cannot be read.")


def _late(question: Question, timeout_s: float) -> DeadlineError:
    return DeadlineError(f"The {question.role} service did not answer within {timeout_s:g} s.")
