"""What uvicorn's HTTP/1.1 needs to face strangers; BentoML passes it no option for any of it.

- A request's head is gathered before it is parsed, with limits on bytes, fields and seconds.
- A client that reads its answer too slowly is cut off, so that it does not keep its slot.
- An idle connection is kept for `KEEP_ALIVE_S`; uvicorn's 5 s would close pooled ones just as they
  are used.
- An offer to switch protocols (h2c: Java's HttpClient, `curl --http2`) is removed, unless it is a
  complete WebSocket handshake; the parser would take it for the end of the request and drop the
  body.
- HTTP/1.0 has no chunks: the answer ends with the connection.
- Whatever is not HTTP is refused with OpenAI's error object.
"""

from __future__ import annotations

import asyncio
import re
import socket
from http import HTTPStatus
from typing import Any, Final

import httptools
from uvicorn import Server
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from services.openai.errors import error_body
from services.server.writer import Gathering

HEAD_BYTES: Final = 64 * 1024
HEAD_FIELDS: Final = 128
HEAD_S: Final = 15.0
KEEP_ALIVE_S: Final = 75.0  # as in nginx; clients that pool connections give them up sooner
LINGER_S: Final = 30.0  # how long the body of a refused request may go on
WRITE_CHECK_S: Final = 30.0
WRITE_RATE_BYTES_S: Final = 256  # so fast a client must read what waits, averaged over that time
_LOOK_S: Final = 0.1  # how often a draining server looks whether SIGINT tells it to end at once

_END: Final = b"\r\n\r\n"
_BEGINNINGS: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ\r\n")
_UPGRADE: Final = re.compile(rb"(?im)^upgrade:[^\r\n]*\r\n")
_WEBSOCKET: Final = (
    re.compile(rb"GET "),
    re.compile(rb"(?im)^upgrade:[ \t]*websocket[ \t]*\r\n"),
    re.compile(rb"(?im)^sec-websocket-version:[ \t]*13[ \t]*\r\n"),
    re.compile(rb"(?im)^sec-websocket-key:"),
)
_BODY: Final = re.compile(rb"(?im)^(content-length:[ \t]*0*[1-9]|transfer-encoding:)")


class _TooManyFieldsError(Exception):
    """More than `HEAD_FIELDS`; stops the parser."""


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol for one connection, with limits."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.timeout_keep_alive = KEEP_ALIVE_S  # type: ignore[assignment]  # uvicorn's int
        self._head: bytearray | None = bytearray()  # None while a body is read
        self._in_head = False  # in the parser's view
        self._left_bytes: int | None = None  # of a body whose length is known
        self._unseen_bytes = 0
        self._upgraded = False
        self._deadline: asyncio.TimerHandle | None = None
        self._write_check: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request as long as for later ones."""
        super().connection_made(Gathering(transport, self.loop))  # type: ignore[arg-type]
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clocks()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived: a head once it is complete, a body piece by piece."""
        self._unset_keepalive_if_required()
        while data and not self.transport.is_closing() and not self._upgraded:
            head = self._head
            data = self._take_body(data) if head is None else self._take_head(head, data)

    def _take_head(self, head: bytearray, data: bytes) -> bytes:
        """Gather a head and parse it once it is complete; return what follows it."""
        searched = max(0, len(head) - len(_END))
        head += data
        end = head.find(_END, searched) + len(_END)
        whole = end >= len(_END)
        if (end if whole else len(head)) > HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif whole:
            self._head = bytearray()
            first = bytes(head[:end])
            self._parse(_without_upgrade(first) if b"upgrade" in first.lower() else first)
            return bytes(head[end:])
        elif head[0] not in _BEGINNINGS or b"\n\n" in head:
            self._refuse(HTTPStatus.BAD_REQUEST)  # TLS, for example; its end would never come
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_S, self._too_slow)
        return b""

    def _take_body(self, data: bytes) -> bytes:
        """Parse a piece of a body; return what follows the body, if its length is known."""
        if self._left_bytes is not None:
            piece, rest = data[: self._left_bytes], data[self._left_bytes :]
            self._left_bytes -= len(piece)
            self._parse(piece)
            return rest
        self._unseen_bytes += len(data)
        self._parse(data)
        if self._unseen_bytes > HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)  # trailers, or the like
        elif self._in_head and self._head is not None:
            # The next head began after the last chunk; its beginning is in the parser already.
            self._head = None
            self._deadline = self.loop.call_later(HEAD_S, self._too_slow)
        return b""

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            over = isinstance(error.__context__, _TooManyFieldsError)
            too_large = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self._refuse(too_large if over else HTTPStatus.BAD_REQUEST)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self._stop_clocks()
                self._upgraded = True
                self.transport.flush()  # type: ignore[attr-defined]
                self.transport = self.transport.bare  # type: ignore[attr-defined]
                self.handle_websocket_upgrade()

    # Parser callbacks
    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= HEAD_FIELDS:
            raise _TooManyFieldsError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head = None
        self._in_head = False
        self._left_bytes = _length_of(self.headers)
        self._unseen_bytes = 0
        self._stop_deadline()
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":
            _end_by_closing(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._unseen_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head = bytearray()
        self._stop_deadline()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Give a client that was refused while sending its body some time to notice."""
        super().on_response_complete()
        if self._head is None and not self._answering and not self.transport.is_closing():
            self._deadline = self.loop.call_later(LINGER_S, self.transport.close)

    # Flow control
    def pause_writing(self) -> None:
        """Check from now on whether the client reads what is waiting for it."""
        super().pause_writing()
        self._check_writing(None)

    def resume_writing(self) -> None:
        if self._write_check is not None:
            self._write_check.cancel()
        super().resume_writing()

    def _check_writing(self, before_bytes: int | None) -> None:
        waiting_bytes = self.transport.get_write_buffer_size()
        if (
            before_bytes is not None
            and 0 <= before_bytes - waiting_bytes < WRITE_CHECK_S * WRITE_RATE_BYTES_S
        ):
            self.logger.warning("a client took too little of its answer: dropped")
            self.transport.abort()
            return
        self._write_check = self.loop.call_later(WRITE_CHECK_S, self._check_writing, waiting_bytes)

    def _too_slow(self) -> None:
        if self._answering:  # the head belongs to the next request
            self._deadline = self.loop.call_later(HEAD_S, self._too_slow)
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer something that is not a valid request, and close."""
        self._stop_clocks()
        if self.transport.is_closing():
            return
        if self._answering:
            if self.cycle.response_started or self.pipeline:
                self.transport.abort()  # in the middle of another answer
                return
            self.cycle.disconnected = True  # it would have answered too
        self.logger.warning("refused a connection: %s", status.phrase)
        code, message = _REFUSALS[status]
        body = error_body(message, "invalid_request_error", None, code)
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
            + b"connection: close\r\n\r\n"
            + body
        )
        self.transport.close()

    @property
    def _answering(self) -> bool:
        """Whether a request is being answered; before the first, uvicorn has no cycle."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stop_clocks(self) -> None:
        self._stop_deadline()
        if self._write_check is not None:
            self._write_check.cancel()


_REFUSALS: Final = {  # the code and the message of each status
    HTTPStatus.BAD_REQUEST: ("invalid_http", "The request is not valid HTTP/1.1."),
    HTTPStatus.REQUEST_TIMEOUT: (
        "request_timeout",
        f"The request's head did not come within {HEAD_S:g} s.",
    ),
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: (
        "request_head_too_large",
        f"The request's head is larger than {HEAD_BYTES} bytes or {HEAD_FIELDS} fields.",
    ),
}


def _without_upgrade(head: bytes) -> bytes:
    """Remove an offer to switch protocols from a head, unless it opens a WebSocket."""
    if all(sign.search(head) for sign in _WEBSOCKET) and not _BODY.search(head):
        return head
    return _UPGRADE.sub(b"", head)


def _length_of(headers: list[tuple[bytes, bytes]]) -> int | None:
    """Return the length of a body, or None if it is chunked."""
    found = dict(headers)
    if b"transfer-encoding" in found:
        return None
    length = found.get(b"content-length", b"0").strip()
    return int(length) if length.isdigit() else 0


def _end_by_closing(cycle: Any) -> None:
    """Send the answer without chunks; uvicorn then closes, as always with HTTP/1.0."""
    cycle.chunked_encoding = False
    framed = cycle.send

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            cycle.expected_content_length = len(message.get("body", b""))
        await framed(message)

    cycle.send = send


def has_arrived(receive: Any) -> bool:
    """Whether ASGI's `receive` would return at once, as far as one can tell."""
    cycle = getattr(receive, "__self__", None)
    return isinstance(cycle, RequestResponseCycle) and cycle.message_event.is_set()


class Draining:
    """Whether this process was told to end and is still serving for a while."""

    begun = False


def install(drain_s: float = 0) -> None:
    """Make uvicorn apply these limits to every connection that it accepts from now on.

    For `drain_s` after it was told to end it goes on as before, and only `/readyz` says so:
    otherwise a request at that moment would find its connection closing.
    """
    auto.AutoHTTPProtocol = BoundedHttp
    end = Server.shutdown

    async def drain(self: Server, sockets: list[socket.socket] | None = None) -> None:
        Draining.begun = True
        loop = asyncio.get_running_loop()
        end_s = loop.time() + drain_s
        while not self.force_exit and (left_s := end_s - loop.time()) > 0:  # noqa: ASYNC110  a flag
            await asyncio.sleep(min(left_s, _LOOK_S))
        await end(self, sockets)

    Server.shutdown = drain  # type: ignore[method-assign]
