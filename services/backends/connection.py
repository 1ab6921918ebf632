"""Where a backend listens, and HTTP/1.1 connections to it, over TCP, TLS or a Unix socket.

A general client turns each streamed token into an object, a queue entry and a task switch; at 7000
tokens a second that is most of a core. Here the bytes go from the socket's callback to a sink
(docs/decisions/0003; `benchmarks/relay.py` compares it with aiohttp). httptools, uvicorn's parser,
does the framing.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote, urlsplit

import httptools

from services.errors import BackendError, ConfigurationError, DeadlineError, UnavailableError
from services.server.uvicorn_http import KEEP_ALIVE_S

HELD_BYTES = 64 * 1024  # the most of a body that waits here; for an answer, reading then pauses

# A machine that is gone closes nothing: its streams end after a minute or two and free slots.
_KEEP_ALIVE = (
    (socket.TCP_KEEPIDLE, 30),
    (socket.TCP_KEEPINTVL, 10),
    (socket.TCP_KEEPCNT, 3),
    (socket.TCP_USER_TIMEOUT, 60_000),  # for what was sent; keep-alive is for silence
)
_IDLE_LIMIT = 256
_FINAL = 200  # statuses below are interim
_BODILESS = frozenset({204, 304})
_IDLE_S = KEEP_ALIVE_S / 2  # so that no backend closes one just as it is used
_JUST_USED_S = 4.0  # only a dying server closes a connection so soon


@dataclass(frozen=True)
class Address:
    """Where a backend listens."""

    host: str
    port: int
    path: str | None  # of a Unix socket
    tls: bool
    prefix: str = ""  # stands before the path of every request

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read `http://host:port`, `https://host:port/prefix` or BentoML's `file:///path/to.sock`.

        ConfigurationError for any other form.
        """
        parts = urlsplit(url)
        if parts.scheme in {"file", "unix"}:
            return cls("localhost", 0, unquote(parts.path), tls=False)
        tls = parts.scheme == "https"
        try:
            port = parts.port if parts.port is not None else 443 if tls else 80
        except ValueError:
            port = 0
        rest = parts.query or parts.fragment or parts.username
        if parts.scheme not in {"http", "https"} or not parts.hostname or rest or not port:
            raise ConfigurationError(
                f"backend {url!r} is no URL such as http://speech:3000 or https://host:443."
            )
        return cls(parts.hostname, port, None, tls, parts.path.rstrip("/"))

    @property
    def authority(self) -> bytes:
        """Return the value of the Host header, RFC 9110, section 7.2."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.path is not None or self.port == (443 if self.tls else 80)
        return (host if usual else f"{host}:{self.port}").encode()


class Connection(asyncio.Protocol):
    """One connection, one exchange at a time."""

    transport: asyncio.Transport

    def __init__(self, on_lost: Callable[[Connection], None]) -> None:
        self.idle_since = 0.0
        self.closed = False
        self._loop = asyncio.get_running_loop()  # asking for it is a system call on Python 3.11
        self._on_lost = on_lost
        self._rest: Iterator[bytes] | None = None  # of a request, until it is written
        self._full = False  # so that it has to wait
        self._news = select.poll()
        self._begin()

    def _begin(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.pending: list[bytes] = []
        self.sink: Callable[[bytes], None] | None = None
        self.complete = False
        self._keep_alive = False
        self._until_close = False
        self._parser = httptools.HttpResponseParser(self)
        self._head: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()

    async def ask(self, data: bytes, rest: Iterator[bytes] | None, timeout_s: float) -> None:
        """Send a request and return once `status` and `headers` are there.

        `rest` follows `data` as the backend takes it. BackendError if the connection breaks before,
        TimeoutError if they are late; then it is dropped.
        """
        self._begin()
        if not self.closed:
            self.transport.write(data)
            self._rest = rest
            self._pour()
        # A fifth of the price of asyncio.timeout, at each request.
        late = self._loop.call_later(timeout_s, self._fail, TimeoutError())
        try:
            await self._head
        except BaseException:
            self.abort()
            raise
        finally:
            late.cancel()

    def _pour(self) -> None:
        while self._rest is not None and not self._full:
            if (piece := next(self._rest, None)) is None:
                self._rest = None
            else:
                self.transport.write(piece)

    async def ended(self) -> bytes:
        """Wait for the body's end, and return the last piece, so that both can go out together.

        BackendError if it breaks off.
        """
        await self._ended
        return b"".join(self.pending)

    def flow_to(self, sink: Callable[[bytes], None]) -> None:
        """Pass the body to `sink` as it arrives, all but what comes with its end."""
        self.sink = sink
        self._pass_on()

    def _pass_on(self) -> None:
        if self.pending and self.sink is not None and not self.complete:
            self.sink(b"".join(self.pending))
            self.pending.clear()

    async def pieces(
        self, silence_s: float | None = None, who: str = "The backend"
    ) -> AsyncGenerator[bytes, None]:
        """Yield the body as it arrives; while nobody takes it, the backend is not read.

        BackendError if it breaks off before its end, DeadlineError if it is silent for `silence_s`;
        that calls it `who`.
        """
        arrived: asyncio.Queue[bytes] = asyncio.Queue()
        held_bytes = 0

        def sink(piece: bytes) -> None:
            nonlocal held_bytes
            arrived.put_nowait(piece)
            held_bytes += len(piece)
            if held_bytes > HELD_BYTES:
                self.pause()

        def end(_: object) -> None:
            for piece in (*self.pending, b""):
                arrived.put_nowait(piece)  # no pause: it may be another exchange's by now

        self.flow_to(sink)
        self._ended.add_done_callback(end)
        try:
            while True:
                try:
                    async with asyncio.timeout(silence_s if arrived.empty() else None):
                        piece = await arrived.get()
                except TimeoutError as exc:
                    raise DeadlineError(f"{who} was silent for {silence_s:g} s.") from exc
                if not piece:
                    break
                held_bytes -= len(piece)
                if held_bytes <= HELD_BYTES // 2:
                    self.resume()
                yield piece
            await self._ended  # raises if it broke off
        finally:
            self.resume()  # it may be reused

    def pause(self) -> None:
        """Stop reading: the sink is slower than the backend."""
        if not self.closed:
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if not self.closed:
            self.transport.resume_reading()

    def abort(self, error: Exception | None = None) -> None:
        """Drop the connection; the backend sees a client that hung up."""
        self._fail(error or BackendError("The exchange was given up."))
        self._close()
        self.transport.abort()

    def _close(self) -> None:
        self.closed = True
        self._rest = None

    def is_quiet(self) -> bool:
        """Whether an idle connection has received neither bytes nor its end."""
        return not self._news.poll(0)

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, and let the kernel notice that the other machine has died."""
        self.transport = transport  # type: ignore[assignment]  # a stream's is an asyncio.Transport
        end = transport.get_extra_info("socket")
        self._news.register(end, select.POLLIN | select.POLLRDHUP)
        if end.family != socket.AF_UNIX:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEP_ALIVE:
                end.setsockopt(socket.IPPROTO_TCP, option, value)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived; what it has of the body is passed on at once, in one piece."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self.abort(BackendError(f"The backend sent no proper HTTP: {exc}."))
        self._pass_on()

    def eof_received(self) -> None:
        """End a body that is delimited by the end of the connection (RFC 9112, section 6.3)."""
        if self._until_close:
            self._complete()

    def connection_lost(self, _: Exception | None) -> None:
        self._close()
        self._fail(BackendError("The backend closed the connection before it had answered."))
        self._on_lost(self)

    def pause_writing(self) -> None:
        """Hold back the rest of the request: the backend is slower than we are."""
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._pour()

    # httptools
    def on_message_begin(self) -> None:
        """Refuse an unrequested answer: it would be taken for the answer to the next request."""
        if self.complete:
            raise BackendError("The backend sent more than one answer.")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Announce the head; an interim one (100 Continue, 103 Early Hints) is skipped."""
        status = self._parser.get_status_code()
        if status < _FINAL:
            self.headers = []
            return
        self.status = status
        framed = any(name in {b"content-length", b"transfer-encoding"} for name, _ in self.headers)
        self._until_close = not framed and status not in _BODILESS
        if not self._head.done():
            self._head.set_result(None)

    def on_body(self, body: bytes) -> None:
        self.pending.append(body)

    def on_message_complete(self) -> None:
        """Announce the end, unless this was only an interim answer."""
        if self.status:
            self._keep_alive = bool(self._parser.should_keep_alive())
            self._complete()

    def _complete(self) -> None:
        self.complete = True
        if not self._ended.done():
            self._ended.set_result(None)

    @property
    def reusable(self) -> bool:
        """Whether another exchange may follow; the rest of a request would be taken for it."""
        return self.complete and self._rest is None and self._keep_alive and not self.closed

    def _fail(self, error: Exception) -> None:
        for future in (self._head, self._ended):
            if not future.done():
                future.set_exception(error)
                future.exception()  # marked as seen: nobody may be waiting any more


async def joined(pieces: AsyncGenerator[bytes, None], most_bytes: int) -> bytes:
    """Return a whole body; BackendError if it is over `most_bytes`."""
    body = bytearray()
    async with aclosing(pieces):
        async for piece in pieces:
            body += piece
            if len(body) > most_bytes:
                raise BackendError(f"The backend's answer is over {most_bytes} bytes.")
    return bytes(body)


class Connections:
    """The connections to one backend, kept open between exchanges."""

    def __init__(
        self,
        address: Address,
        connect_timeout_s: float,
        on_death: Callable[[], None] = lambda: None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Keep connections to `address`; `on_death` is called when one just used is dropped.

        A server closes those that have been idle for long; others only when its process ends.
        """
        self.address = address
        self._on_death = on_death
        self._timeout_s = connect_timeout_s
        self._idle: deque[Connection] = deque()
        self._closed = False
        self.tls = (tls or ssl.create_default_context()) if address.tls else None

    async def take(self) -> Connection:
        """Return a connection; UnavailableError or DeadlineError if there is none in time."""
        now = time.monotonic()
        while self._idle:
            connection = self._idle.pop()
            recent = now - connection.idle_since < _IDLE_S
            if recent and not connection.closed and connection.is_quiet():
                return connection
            connection.abort()
        return await self._connect()

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next exchange, or close it if it cannot be reused."""
        if connection.reusable and len(self._idle) < _IDLE_LIMIT and not self._closed:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            connection.abort()

    def close(self) -> None:
        """Close the idle connections, and keep none from now on."""
        self._closed = True
        while self._idle:
            self._idle.pop().abort()

    def _lost(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
            if time.monotonic() - connection.idle_since < _JUST_USED_S:
                self._on_death()

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        made, address = partial(Connection, self._lost), self.address
        try:
            async with asyncio.timeout(self._timeout_s):
                if address.path is not None:
                    _, protocol = await loop.create_unix_connection(made, address.path)
                else:
                    _, protocol = await loop.create_connection(
                        made, address.host, address.port, ssl=self.tls
                    )
        except TimeoutError as exc:
            raise DeadlineError(
                f"The backend did not accept a connection within {self._timeout_s:g} s.",
                retry_after_s=2,
            ) from exc
        except OSError as exc:
            raise UnavailableError("The backend cannot be reached.", retry_after_s=2) from exc
        return protocol
