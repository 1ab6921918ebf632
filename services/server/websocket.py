"""One WebSocket in a role's shell, from its handshake to its close.

Before it is accepted a connection is refused with HTTP, in OpenAI's error shape; after that with an
`error` event and a close code. The application sees ASGI's events, except `websocket.connect`.

A connection takes no slot by being open. Its application takes one with `scope["bentovox.slot"]`
while there is work to do: a conversation is mostly idle, and an idle one should keep nobody out.
None is accepted while the role is full: its client would give up before the queue moved.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import suppress
from http import HTTPStatus
from typing import Final

from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from services.errors import (
    DeadlineError,
    OverloadedError,
    ServiceError,
    TooLargeError,
)
from services.openai.answers import new_id
from services.openai.body import ClientGoneError
from services.openai.errors import INTERNAL_MESSAGE, error_response, fault_of, kind_of
from services.server.serving import Serving, Visit, no_such_path

log = logging.getLogger("bentovox")

OPEN_LIMIT: Final = 1024  # open connections in a role
STALLED_S: Final = 60.0  # a client that reads nothing for this long is dropped
HELLO_S: Final = 60.0  # a connection is closed if its client has sent nothing by then
IDLE_S: Final = 900.0  # likewise, after that, without a message in either direction
DRAIN_S: Final = 15.0  # how long an open one may go on after shutdown begins

_NORMAL: Final = 1000
_SERVICE_RESTART: Final = 1012
_POLICY: Final = 1008
_INTERNAL: Final = 1011
_CODES: Final = {413: 1009, 429: 1013, 503: 1013, 504: 3008}
"""By the status of an error; IANA's WebSocket Close Code Number Registry."""

_EXTENSIONS: Final = "Sec-WebSocket-Extensions"


def _close_code(error: ServiceError) -> int:
    status = kind_of(error).status
    ours = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return _CODES.get(status, _INTERNAL if ours else _POLICY)


def error_event(error: ServiceError) -> str:
    """Return the event that tells a client about `error`.

    `error` is OpenAI's error object, as in its realtime API; vLLM-Omni's clients read `message`.
    """
    told = {"type": "error", "message": error.message, "error": fault_of(error)}
    # ASCII, since quoted input may contain half of a surrogate pair.
    return json.dumps({**told, "event_id": new_id("event")})


class WebSocket(Visit):
    """What `Exchange` is to an HTTP request."""

    def __init__(self, shell: Serving, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(shell, scope, receive, send)
        self._accepted = False
        self._closed = False
        self._gone = False
        self._heard = False
        self._last_message = self._began
        self._draining = asyncio.Event()
        protocol = getattr(send, "__self__", None)
        self._uvicorn = protocol if isinstance(protocol, WebSocketsSansIOProtocol) else None
        if self._uvicorn is not None:
            self._set_up(self._uvicorn)

    def _set_up(self, protocol: WebSocketsSansIOProtocol) -> None:
        """Set what is beyond ASGI, before the connection is accepted; BentoML has no option for it.

        - A message over the role's limit is refused by the parser before it is in memory.
        - Nothing is compressed: audio hardly shrinks, and each piece would cost the event loop
          time.
        - Pings keep the connection alive for proxies in between, without a deadline for the pong: a
          client that plays audio as it reads answers only after reading everything sent before, and
          would be cut off after 20 s. Who reads nothing at all is dropped after `STALLED_S`.
        - At shutdown the application is told to end first; uvicorn would close at once.
        """
        protocol.conn.max_message_size = self.shell.app.body_limit_bytes
        protocol.conn.extensions = []
        if _EXTENSIONS in protocol.response.headers:
            del protocol.response.headers[_EXTENSIONS]
        protocol.ping_timeout = None
        cut = protocol.shutdown

        def cut_if_open() -> None:
            if not (protocol.disconnected or protocol.transport.is_closing()):
                cut()

        def drain() -> None:
            if not protocol.handshake_complete or protocol.close_sent:
                cut()
                return
            self._draining.set()
            asyncio.get_running_loop().call_later(DRAIN_S, cut_if_open)

        protocol.shutdown = drain  # type: ignore[method-assign]

    async def _serve(self) -> None:
        scope, shell = self.scope, self.shell
        await self._receive()  # websocket.connect
        path: str = scope["path"]
        app = shell.app.sockets.get(path)
        if app is None:
            raise no_such_path("WebSocket", path)
        self._label = scope["bentovox.route"] = path
        scope["bentovox.request_id"] = self.request_id
        scope["bentovox.slot"] = shell.admission.slot
        scope["bentovox.draining"] = self._draining
        shell.check(scope)
        if not shell.admission.remaining:
            raise self._overloaded("every slot is taken and the queue is full")
        if shell.open_sockets >= OPEN_LIMIT:
            raise self._overloaded(f"{OPEN_LIMIT} connections are open")
        shell.open_sockets += 1  # and as long as one is open, the engine stays loaded
        try:
            await shell.loaded()
            await app(scope, self.receive, self.send)
        finally:
            shell.open_sockets -= 1
        if not (self._accepted or self._status or self._gone):
            raise ServiceError(INTERNAL_MESSAGE, code="internal_error")
        await self._close(_SERVICE_RESTART if self._draining.is_set() else _NORMAL)

    async def receive(self) -> Message:
        """ASGI receive for the application.

        TooLargeError if the message is over the role's limit; DeadlineError if there is none for
        `IDLE_S`, or not even a first one within `HELLO_S` after it was accepted.
        """
        while True:
            quiet_s = IDLE_S if self._heard else HELLO_S
            left_s = self._last_message + quiet_s - time.perf_counter()
            if self._accepted and left_s <= 0:
                raise DeadlineError(
                    f"No message was exchanged for {quiet_s:g} s.", code="idle_timeout"
                )
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s if self._accepted else None):
                    message = await self._receive()
                self._heard = True
                self._last_message = time.perf_counter()
                self._gone = message["type"] == "websocket.disconnect"
                limit = self.shell.app.body_limit_bytes
                if len(message.get("bytes") or message.get("text") or b"") > limit:
                    # As a rule the parser has refused it already, but not Ray's.
                    raise TooLargeError(f"The message is larger than the limit of {limit} bytes.")
                return message

    async def send(self, message: Message) -> None:
        """ASGI send for the application; returns once the client is not far behind.

        ClientGoneError if the client has gone, or has read nothing for `STALLED_S`.
        """
        if self._gone:
            raise ClientGoneError
        kind = message["type"]
        if kind == "websocket.accept":
            message = self._with_id(message)
            self._accepted, self._status = True, HTTPStatus.SWITCHING_PROTOCOLS
            self._last_message = time.perf_counter()
        elif kind == "websocket.http.response.start":
            message = self._with_id(message)
            self._status = message["status"]
        elif kind == "websocket.send" and self._first_byte is None:
            self._first_byte = time.perf_counter()
        await self._deliver(message)
        if self._heard:
            self._last_message = time.perf_counter()
        if kind == "websocket.close":
            self._closed = True
        elif kind == "websocket.http.response.body" and self._uvicorn is not None:
            self._uvicorn.handshake_complete = True  # else uvicorn would log an error

    async def _deliver(self, message: Message) -> None:
        try:
            async with asyncio.timeout(STALLED_S):
                await self._send(message)
        except TimeoutError as exc:
            log.warning("a WebSocket's client took nothing for %g s: dropped", STALLED_S)
            self._gone = True
            if self._uvicorn is not None:
                self._uvicorn.transport.abort()  # with whatever is waiting to be sent
            raise ClientGoneError from exc
        except (OSError, RuntimeError) as exc:
            if self._closed and isinstance(exc, RuntimeError):
                raise  # the application goes on after its end
            self._gone = True  # or the server has closed it, for invalid UTF-8 for example
            raise ClientGoneError from exc

    def _with_id(self, message: Message) -> Message:
        headers = [
            pair for pair in message.get("headers", ()) if pair[0].lower() != b"x-request-id"
        ]
        return {**message, "headers": [*headers, (b"x-request-id", self.request_id)]}

    async def _close(self, code: int, reason: str = "") -> None:
        if self._accepted and not (self._closed or self._gone):
            await self.send({"type": "websocket.close", "code": code, "reason": reason})

    async def _refuse(self, error: ServiceError) -> None:
        if isinstance(error, OverloadedError):
            self.shell.metrics.rejected()
        if self._accepted:
            if self._closed or self._gone:
                log.warning("WebSocket broken off: %s", error.message)
                return
            self._status = kind_of(error).status
            await self.send({"type": "websocket.send", "text": error_event(error)})
            await self._close(_close_code(error), error.code or kind_of(error).code or "")
            return
        status, headers, body = error_response(error)
        if isinstance(error, OverloadedError):
            headers = [*headers, *self.shell.admission.headers()]
        start = {"type": "websocket.http.response.start", "status": status, "headers": headers}
        await self.send(start)
        await self.send({"type": "websocket.http.response.body", "body": body})

    def _overloaded(self, why: str) -> OverloadedError:
        return OverloadedError(
            f"The server takes no further connection: {why}. Please try again later.",
            retry_after_s=self.shell.admission.retry_after_s(),
        )
