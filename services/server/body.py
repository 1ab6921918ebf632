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
from collections.abc import Iterator
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
        self.settings = f"BENTOVOX_{role.upper()}__"
        self.bytes = 0
        self._most_bytes = 0

    def take(self, count: int) -> None:
        """Count bytes as held from now on, or raise OverloadedError and count nothing."""
        if self.bytes + count > self.limit_bytes:
            raise OverloadedError(
                f"Request bodies hold all of the {self.limit_bytes} bytes that they may take "
                f"together ({self.settings}BODY_MEMORY_MIB). Please try again later.",
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

    def __init__(self, scope: Scope, receive: Receive, limit_bytes: int, held: Held) -> None:
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
            await self._read()
            if self._gathered[-1]["type"] == "http.disconnect":
                raise ClientGoneError

    async def receive(self) -> Message:
        """ASGI receive for the application; ServiceError if it is too much, too slow or no gzip."""
        if not (self._gathered or self._complete):
            await self._read()
        return self._gathered.popleft() if self._gathered else await self._receive()

    def close(self) -> None:
        """Drop what was gathered and count it as free again."""
        self._gathered.clear()
        if self._held_bytes:
            self._held.give_back(self._held_bytes)
            self._held_bytes = 0

    async def _read(self) -> None:
        """Gather what comes next: a piece of the body, or several, or the client's hang-up."""
        try:
            message = await self._arriving()
            if message["type"] != "http.request":
                self._gathered.append(message)
                return
            body, more = message.get("body", b""), message.get("more_body", False)
            for piece in self._inflater.pieces(body, more=more) if self._inflater else (body,):
                self._count(len(piece))
                self._gathered.append({"type": "http.request", "body": piece, "more_body": True})
            self._gathered[-1]["more_body"] = more
            self._complete = not more
        except ServiceError as error:
            self.fault = error
            raise

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
            f"({self._held.settings}BODY_LIMIT_MIB)."
        )


class _Inflater:
    """gzip (RFC 1952), unpacked piece by piece, so that the limit catches a zip bomb."""

    def __init__(self) -> None:
        self._members = 1
        self._inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)

    def pieces(self, data: bytes, *, more: bool) -> Iterator[bytes]:
        """Yield what is in `data`; InvalidRequestError if it is not gzip, or is cut off."""
        while True:
            try:
                piece = self._inflate.decompress(data, _INFLATED_BYTES)
            except zlib.error as exc:
                raise _no_gzip(str(exc)) from exc
            yield piece
            data = self._inflate.unconsumed_tail
            if self._inflate.unused_data:
                self._members += 1
                if self._members > _MEMBERS:
                    raise _no_gzip(f"it has over {_MEMBERS} members")
                data = self._inflate.unused_data
                self._inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            if not data and len(piece) < _INFLATED_BYTES:  # else there may be more of it
                break
        if not (more or self._inflate.eof):
            raise _no_gzip("it ends too early")


def _no_gzip(why: str) -> InvalidRequestError:
    return InvalidRequestError(f"the body is not whole gzip: {why}", code="invalid_encoding")
