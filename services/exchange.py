"""One HTTP request in a role's shell, and its answer."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any

from services import telemetry
from services.errors import OverloadedError, ServiceError, TooLargeError
from services.logging import request_id_var
from services.openai import unknown
from services.openai.errors import INTERNAL_MESSAGE, error_body, error_response, normalise

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from services.shell import Shell

    Message = dict[str, Any]
    Scope = dict[str, Any]
    Receive = Callable[[], Awaitable[Any]]
    Send = Callable[[Any], Awaitable[None]]

log = logging.getLogger("bentovox")
access_log = logging.getLogger("bentovox.access")

_SAFE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_ERROR_FROM = 400
_ERROR_BODY_LIMIT_BYTES = 1 << 20
# What the shell itself says; the same headers of an inner answer are replaced.
_OWN_HEADERS = frozenset({b"x-request-id", b"openai-processing-ms", b"server", b"date"})
# What a foreign error says of its body, which is written anew.
_REPLACED = frozenset(
    {b"content-type", b"content-length", b"content-encoding", b"transfer-encoding"}
)


class Exchange:
    """One HTTP request and its answer."""

    def __init__(self, shell: Shell, scope: Scope, receive: Receive, send: Send) -> None:
        self.shell = shell
        self.scope = scope
        self._receive = receive
        self._send = send
        self._early: deque[Message] = deque()
        self._read_bytes = 0
        self._too_large = False
        self._held_start: Message | None = None
        self._held_body = bytearray()
        self._began = time.perf_counter()
        self._first_byte: float | None = None
        self._status = 0
        self._admitted = False
        self._label = "other"
        self.request_id = request_id(scope)

    async def run(self) -> None:
        """Answer the request; never raises, but for cancellation."""
        token = request_id_var.set(self.request_id)
        self._ignored = unknown.watch(strict=self.shell.strict)
        try:
            await self._answer()
        except ServiceError as error:
            await self._refuse(error)
        except Exception:
            log.exception("request failed: %s %r", self.scope["method"], self.scope["path"])
            if self._status == 0 or self._held_start is not None:
                self._held_start = None
                body = error_body(INTERNAL_MESSAGE, "server_error", None, "internal_error")
                await self._whole(500, [(b"content-type", b"application/json")], body)
        finally:
            self._observe()
            request_id_var.reset(token)

    async def _answer(self) -> None:
        scope, shell = self.scope, self.shell
        method: str = scope["method"]
        path: str = scope["path"]
        if method in {"GET", "HEAD"} and (health := await shell.health(path)) is not None:
            self._label = path
            await self._whole(health[0], [(b"content-type", health[1])], health[2])
            return
        self._label = scope["bentovox.route"] = shell.route(method, path)
        scope["bentovox.request_id"] = self.request_id
        scope["bentovox.send"] = self._send
        scope["bentovox.on_first_byte"] = self._on_first_byte
        if shell.app.guard is not None:
            shell.app.guard(scope)
        self._check_length()
        if not self._takes_slot:
            await shell.app.asgi(scope, self.receive, self.send)
            return
        if not await self._acquire():
            return  # the client hung up while it waited
        self._admitted = True
        with shell.admission.held():
            await shell.app.asgi(scope, self.receive, self.send)

    @property
    def _takes_slot(self) -> bool:
        """Whether there is work to do: reading a list that others add to is none."""
        admitted = self.shell.app.admitted
        return self._label in admitted and self.scope["method"] not in {"GET", "HEAD"}

    async def _acquire(self) -> bool:
        """Take a slot; False when the client hung up in the queue."""
        admission = self.shell.admission
        if admission.in_use < admission.limits.slots and not admission.waiting:
            await admission.acquire()
            return True
        turn = asyncio.ensure_future(admission.acquire())
        gone = asyncio.ensure_future(self._hung_up())
        taken = False
        try:
            await asyncio.wait({turn, gone}, return_when=asyncio.FIRST_COMPLETED)
            if turn.done():
                turn.result()  # raises if it was refused
                taken = True
            elif (error := gone.result()) is not None:
                raise error
            return taken
        finally:
            gone.cancel()
            if not turn.done():
                turn.cancel()
            elif not taken and not turn.cancelled() and turn.exception() is None:
                admission.release()  # cancelled in the moment in which the slot was granted

    async def _hung_up(self) -> ServiceError | None:
        """Keep what a waiting client sends; return when it hangs up, or why it must not wait on."""
        kept_bytes = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._early.append(message)
                return None
            kept_bytes += len(message.get("body", b""))
            if kept_bytes > self.shell.app.body_limit_bytes:
                return self._over_limit()
            self._early.append(message)

    async def receive(self) -> Message:
        """ASGI receive for the inner application: bounds the body."""
        message: Message = self._early.popleft() if self._early else await self._receive()
        if message["type"] == "http.request":
            self._read_bytes += len(message.get("body", b""))
            if self._read_bytes > self.shell.app.body_limit_bytes:
                self._too_large = True
                raise self._over_limit()
        return message

    async def send(self, message: Message) -> None:
        """ASGI send for the inner application: adds headers, normalises errors, counts."""
        if message["type"] == "http.response.start":
            await self._start(message)
            return
        body: bytes = message.get("body", b"")
        last = not message.get("more_body", False)
        if self._held_start is not None:
            if len(self._held_body) < _ERROR_BODY_LIMIT_BYTES:
                self._held_body += body
            if last:
                await self._send_held()
            return
        if body:
            self._on_first_byte()
        await self._send(message)

    def _on_first_byte(self) -> None:
        if self._first_byte is None:
            self._first_byte = time.perf_counter()

    async def _start(self, message: Message) -> None:
        if self._too_large and message["status"] != 413:  # noqa: PLR2004  an application that swallowed it
            raise self._over_limit()
        headers: list[tuple[bytes, bytes]] = list(message.get("headers", ()))
        if message["status"] >= _ERROR_FROM and not _is_audio(headers):
            self._held_start = message
            return
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

    async def _send_held(self) -> None:
        start = self._held_start
        assert start is not None  # noqa: S101  the caller has looked
        self._held_start = None
        headers = [pair for pair in start.get("headers", ()) if pair[0].lower() not in _REPLACED]
        encoded = any(name.lower() == b"content-encoding" for name, _ in start.get("headers", ()))
        body = normalise(start["status"], b"" if encoded else bytes(self._held_body))
        await self._whole(start["status"], [*headers, (b"content-type", b"application/json")], body)

    async def _whole(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        headers = [pair for pair in headers if pair[0] != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await self._send_start(status, headers)
        self._first_byte = time.perf_counter()
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _refuse(self, error: ServiceError) -> None:
        if isinstance(error, OverloadedError) and not self._admitted:
            self.shell.metrics.rejected()
        if self._status and self._held_start is None:
            # Too late for a status: returning without the last chunk makes uvicorn close the
            # connection, so that no client takes half an answer for a whole one.
            log.warning("answer broken off: %s", error.message)
            return
        self._held_start = None
        status, headers, body = error_response(error)
        await self._whole(status, headers, body)

    def _check_length(self) -> None:
        for name, value in self.scope["headers"]:
            if name == b"content-length" and value.isdigit():
                if int(value) > self.shell.app.body_limit_bytes:
                    raise self._over_limit()
                return

    def _over_limit(self) -> TooLargeError:
        limit = self.shell.app.body_limit_bytes
        return TooLargeError(f"The request body is larger than the limit of {limit} bytes.")

    def _observe(self) -> None:
        now = time.perf_counter()
        total_s = now - self._began
        status = self._status or 499  # nginx's status for a client that hung up first
        self.shell.metrics.observe(
            telemetry.Observation(
                self._label,
                status,
                total_s,
                None if self._first_byte is None else self._first_byte - self._began,
            )
        )
        if access_log.isEnabledFor(logging.INFO) and self._label not in _QUIET:
            access_log.info(
                "%s %s %d %.1fms",
                self.scope["method"],
                self.scope.get("raw_path", b"-").decode("ascii", "replace"),
                status,
                total_s * 1000,
            )


_QUIET = frozenset({"/livez", "/healthz", "/readyz", "/metrics"})


def _is_audio(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"audio/") for name, value in headers
    )


def request_id(scope: Scope) -> bytes:
    """Return the client's `x-request-id` if it is safe to repeat, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SAFE_ID.fullmatch(value):
            return bytes(value)
    return b"req_" + uuid.uuid4().hex.encode()
