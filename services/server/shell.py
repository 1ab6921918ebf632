"""The shell around every role: one ASGI layer between uvicorn and the role's own routes.

It gives each request an id, refuses what is too large or too much, answers the health and metrics
paths, turns every error into OpenAI's error object, and keeps the metrics.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from http import HTTPStatus

from starlette.types import Message, Receive, Scope, Send

from services.errors import OverloadedError, ServiceError
from services.openai.answers import is_of
from services.openai.body import until_hangup
from services.openai.errors import error_response, normalise
from services.server.body import Body
from services.server.serving import Serving, Visit
from services.server.websocket import WebSocket

log = logging.getLogger("bentovox")

_ERROR_BODY_LIMIT_BYTES = 1 << 20
# Of an inner answer; set here instead, or about the body of an error, which is rewritten.
_OWN_HEADERS = frozenset(b"x-request-id openai-processing-ms server date".split())
_REPLACED = frozenset(b"content-type content-length content-encoding transfer-encoding".split())


class Exchange(Visit):
    """One HTTP request and its answer."""

    def __init__(self, shell: Serving, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(shell, scope, receive, send)
        self._body = Body(scope, receive, shell.app.body_limit_bytes, shell.held)
        self._held_start: Message | None = None
        self._held_body = bytearray()
        self._weight = 0  # slots held
        self._aside_s = 0.0  # without them

    async def _serve(self) -> None:
        scope, shell = self.scope, self.shell
        method: str = scope["method"]
        path: str = scope["path"]
        scope["bentovox.slash"] = path.endswith("/")
        if path.endswith("/") and len(path) > 1:  # as web frameworks route it
            path = scope["path"] = path.rstrip("/") or "/"
            scope["raw_path"] = scope["raw_path"].rstrip(b"/") or b"/"
        if method in {"GET", "HEAD"} and (health := await shell.health(path)) is not None:
            self._label = path
            await self._whole(health[0], [(b"content-type", health[1])], health[2])
            return
        self._label = scope["bentovox.route"] = shell.route(method, path)
        scope["bentovox.request_id"] = self.request_id
        scope["bentovox.send"] = self._send
        scope["bentovox.on_first_byte"] = self._on_first_byte
        shell.check(scope)
        with closing(self._body):
            self._body.check_head()
            await (self._work() if self._takes_slot else self._hand_over())

    async def _work(self) -> None:
        """Answer in a slot, once the body is there: slow senders keep nobody out."""
        scope, shell = self.scope, self.shell
        await self._body.gather()
        scope["bentovox.weigh"] = self._weigh
        scope["bentovox.aside"] = self._aside
        await self._acquire(1)
        began = time.monotonic()
        try:
            await shell.loaded()
            await self._hand_over()
        finally:
            shell.admission.note_hold(time.monotonic() - began - self._aside_s)
            shell.admission.release(self._weight)

    async def _hand_over(self) -> None:
        method = "GET" if self.scope["method"] == "HEAD" else self.scope["method"]
        handler = self.shell.app.handlers[method, self._label]
        await handler(self.scope, self._body.receive, self.send)

    @property
    def _takes_slot(self) -> bool:
        """Whether there is work to do: reading and deleting is none."""
        return self.scope["method"] == "POST" and self._label not in self.shell.app.slotless

    async def _weigh(self, cost: int) -> None:
        """Hold as many slots as `cost` from now on; for an application that has read the body."""
        weight = self.shell.admission.weight(cost)
        if weight == self._weight:
            return
        # Keep none while waiting: two requests could wait for each other's for ever.
        self.shell.admission.release(self._weight)
        self._weight = 0
        await self._acquire(weight)

    @asynccontextmanager
    async def _aside(self) -> AsyncIterator[None]:
        """Hold no slots during the block, and take them again after it; for a long wait."""
        weight, self._weight = self._weight, 0
        self.shell.admission.release(weight)
        began = time.monotonic()
        try:
            yield
        finally:
            self._aside_s += time.monotonic() - began
        await self._acquire(weight)

    async def _acquire(self, weight: int) -> None:
        """Take slots, and leave the queue for them if the client hangs up."""
        acquiring = self.shell.admission.acquire(weight)
        if not self.shell.admission.has_room(weight):
            acquiring = until_hangup(self._receive, acquiring)
        await acquiring
        self._weight = weight

    async def send(self, message: Message) -> None:
        """ASGI send for the inner application: adds headers, normalises errors, counts."""
        if message["type"] == "http.response.start":
            await self._start(message)
            return
        body: bytes = message.get("body", b"")
        if (start := self._held_start) is not None:
            if len(self._held_body) < _ERROR_BODY_LIMIT_BYTES:
                self._held_body += body
            if not message.get("more_body", False):
                self._held_start = None
                told = start.get("headers", ())
                encoded = any(name.lower() == b"content-encoding" for name, _ in told)
                told = [pair for pair in told if pair[0].lower() not in _REPLACED]
                told.append((b"content-type", b"application/json"))
                shown = normalise(start["status"], b"" if encoded else bytes(self._held_body))
                await self._whole(start["status"], told, shown)
            return
        if body:
            self._on_first_byte()
        await self._send(message)

    def _on_first_byte(self) -> None:
        if self._first_byte is None:
            self._first_byte = time.perf_counter()

    async def _start(self, message: Message) -> None:
        if self._body.fault and message["status"] != HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            raise self._body.fault  # an application swallowed it
        headers: list[tuple[bytes, bytes]] = list(message.get("headers", ()))
        if message["status"] >= HTTPStatus.BAD_REQUEST and not is_of(headers, b"audio/"):
            self._held_start = message
        else:
            await self._send_start(message["status"], headers)

    async def _send_start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._status = status
        kept = [pair for pair in headers if pair[0].lower() not in _OWN_HEADERS]
        elapsed_ms = (time.perf_counter() - self._began) * 1000
        kept.append((b"x-request-id", self.request_id))
        kept.append((b"openai-processing-ms", b"%d" % elapsed_ms))
        if self._ignored.names:
            kept.append((b"x-ignored-fields", self._ignored.header()))
        if self._takes_slot and not any(name == b"x-ratelimit-limit-requests" for name, _ in kept):
            kept += self.shell.admission.headers()
        await self._send({"type": "http.response.start", "status": status, "headers": kept})

    async def _whole(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        headers = [pair for pair in headers if pair[0] != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await self._send_start(status, headers)
        self._first_byte = time.perf_counter()
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _refuse(self, error: ServiceError) -> None:
        if isinstance(error, OverloadedError):
            self.shell.metrics.rejected()
        if self._status:
            # Too late for a status: returning without the last chunk makes uvicorn close the
            # connection, so that no client mistakes half an answer for a whole one.
            log.warning("answer broken off: %s", error.message)
            return
        await self._whole(*error_response(error))


class Shell(Serving):
    """The outermost ASGI application of a role's process."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's scope: lifespan, request or WebSocket."""
        if scope["type"] == "http":
            await Exchange(self, scope, receive, send).run()
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await WebSocket(self, scope, receive, send).run()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            try:
                if self.bento is not None:
                    await stack.enter_async_context(self.bento.router.lifespan_context(self.bento))
                await stack.enter_async_context(self.app.lifespan())
                if self.app.unloading:
                    watching = asyncio.create_task(self.app.unloading.watch(self.is_busy))
                    stack.callback(watching.cancel)
            except Exception as exc:
                log.exception("start of the %s role failed", self.app.role)
                await send({"type": "lifespan.startup.failed", "message": str(exc)})
                return
            # What was loaded at start stays: the garbage collector need not scan it again.
            gc.collect()
            gc.freeze()
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})
