"""A request's body on its way into a role: limited in size, in time and in the total of all bodies.

A role reads it with `services.openai.body`.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
import zlib
from collections import deque
from typing import Final

from starlette.types import Message, Receive, Scope

from services.errors import (
    InvalidRequestError,
    OverloadedError,
    RequestTimeoutError,
    ServiceError,
    TooLargeError,
    UnsupportedMediaError,
)
from services.openai.body import ClientGoneError, header
from services.server.uvicorn_http import has_arrived

SILENCE_S: Final = 30.0  # a client whose body pauses for this long is refused
RATE_BYTES_S: Final = 1024  # on average after that: a tenth of a slow phone's uplink
FREE_BYTES: Final = 64 * 1024  # of each body is not held, so small requests pass at the limit
_INFLATED_BYTES: Final = 256 * 1024  # in one piece
_MEMBERS: Final = 64
_TRIMMED_BYTES: Final = 32 << 20


class Held:
    """The total size of all request bodies in a role, in bytes."""

    def __init__(self, limit_bytes: int, role: str = "") -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self._setting = f"BENTOVOX_{role.upper()}__BODY_MEMORY_MIB"
        self._most_bytes = 0

    def take(self, count: int) -> None:
        """Count bytes as held from now on, or raise OverloadedError and count nothing."""
        if self.bytes + count > self.limit_bytes:
            raise OverloadedError(
                f"Request bodies hold all of the {self.limit_bytes} bytes that they may take "
                f"together ({self._setting}). Please try again later.",
                retry_after_s=2,
            )
        self.bytes += count
        self._most_bytes = max(self._most_bytes, self.bytes)

    def give_back(self, count: int) -> None:
        """Count bytes as free again; after a large total, memory goes back to the system."""
        self.bytes -= count
        if not self.bytes and self._most_bytes >= _TRIMMED_BYTES:
            self._most_bytes = 0
            threading.Thread(target=trim, daemon=True).start()


def trim() -> None:
    """Make the C library return free pages, of which pieces of bodies leave its heap full.

    It runs without the GIL; musl has no such function.
    """
    if (trim_ := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim_(0)


class Body:
    """The body of one request."""

    def __init__(
        self, scope: Scope, receive: Receive, limit_bytes: int, held: Held, role: str = ""
    ) -> None:
        self._setting = f"BENTOVOX_{role.upper()}__BODY_LIMIT_MIB"
        self.fault: ServiceError | None = None
        self._scope = scope
        self._receive = receive
        self._limit_bytes = limit_bytes
        self._held = held
        self._held_bytes = 0
        self._read_bytes = 0
        self._began = time.monotonic()
        self._complete = False
        self._gathered: deque[Message] = deque()
        self._inflater: _Inflater | None = None

    def check_head(self) -> None:
        """Check what the headers say about the body: its length, and how it is compressed."""
        length = header(self._scope, b"content-length")
        if length.isdigit() and int(length) > self._limit_bytes:
            raise self._over_limit()
        coding = header(self._scope, b"content-encoding").strip().lower()
        if coding in {b"", b"identity"}:
            return
        if coding not in {b"gzip", b"x-gzip"}:
            raise UnsupportedMediaError(
                f"content-encoding {coding.decode('latin-1')[:64]!r} is not supported here; send "
                "gzip, or the body as it is"
            )
        self._inflater = _Inflater()
        # The application sees the body uncompressed.
        about = {b"content-encoding", b"content-length"}
        self._scope["headers"] = [one for one in self._scope["headers"] if one[0] not in about]

    async def gather(self) -> None:
        """Read the whole body, which `receive` then returns; raises ClientGoneError."""
        while not self._complete:
            message = await self._next()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            self._gathered.append(message)

    async def hung_up(self) -> None:
        """Return once the client has gone; its body must be complete."""
        message = await self._receive()
        self._gathered.append(message)

    async def receive(self) -> Message:
        """ASGI receive for the application; ServiceError if it is too much, too slow or no gzip."""
        if self._gathered:
            return self._gathered.popleft()
        return await (self._receive() if self._complete else self._next())

    def close(self) -> None:
        """Drop what was gathered and count it as free again."""
        self._gathered.clear()
        if self._held_bytes:
            self._held.give_back(self._held_bytes)
            self._held_bytes = 0

    async def _next(self) -> Message:
        try:
            inflater = self._inflater
            message = await (self._inflated(inflater) if inflater else self._arriving())
            if message["type"] == "http.request":
                self._count(len(message.get("body", b"")))
                self._complete = not message.get("more_body", False)
        except ServiceError as error:
            self.fault = error
            raise
        return message

    async def _arriving(self) -> Message:
        """Wait for the next piece, unless the client is too slow."""
        if has_arrived(self._receive):  # usually so, and a timer is half of what a body costs
            return await self._receive()
        try:
            async with asyncio.timeout(SILENCE_S):
                message = await self._receive()
        except TimeoutError as exc:
            raise RequestTimeoutError(
                f"Nothing of the request's body came for {SILENCE_S:g} s."
            ) from exc
        waited_s = time.monotonic() - self._began
        if waited_s > SILENCE_S and self._read_bytes < waited_s * RATE_BYTES_S:
            raise RequestTimeoutError(
                f"The request's body comes slower than {RATE_BYTES_S} bytes a second."
            )
        return message

    async def _inflated(self, inflater: _Inflater) -> Message:
        while not (inflater.waiting or inflater.ended):
            message = await self._arriving()
            if message["type"] == "http.disconnect":
                return message
            inflater.waiting = message.get("body", b"")
            inflater.ended = not message.get("more_body", False)
        return inflater.next()

    def _count(self, count: int) -> None:
        self._read_bytes += count
        if self._read_bytes > self._limit_bytes:
            raise self._over_limit()
        held_bytes = max(0, self._read_bytes - FREE_BYTES)
        if held_bytes > self._held_bytes:
            self._held.take(held_bytes - self._held_bytes)
            self._held_bytes = held_bytes

    def _over_limit(self) -> TooLargeError:
        return TooLargeError(
            f"The request body is larger than the limit of {self._limit_bytes} bytes "
            f"({self._setting})."
        )


class _Inflater:
    """gzip (RFC 1952), unpacked piece by piece, so that the limit catches a zip bomb."""

    def __init__(self) -> None:
        self.waiting = b""
        self.ended = False  # the input
        self._members = 1
        self._inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)

    def next(self) -> Message:
        """Return the next piece; InvalidRequestError if it is not gzip, or is cut off."""
        try:
            piece = self._inflate.decompress(self.waiting, _INFLATED_BYTES)
        except zlib.error as exc:
            raise _no_gzip(str(exc)) from exc
        self.waiting = self._inflate.unconsumed_tail
        if self._inflate.unused_data:
            self._members += 1
            if self._members > _MEMBERS:
                raise _no_gzip(f"it has over {_MEMBERS} members")
            self.waiting = self._inflate.unused_data
            self._inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        more = bool(self.waiting) or not self.ended
        if not more and not self._inflate.eof:
            if not piece:
                raise _no_gzip("it ends too early")
            more = True  # the limit for one piece holds the rest back
        return {"type": "http.request", "body": piece, "more_body": more}


def _no_gzip(why: str) -> InvalidRequestError:
    return InvalidRequestError(f"the body is not whole gzip: {why}", code="invalid_encoding")
