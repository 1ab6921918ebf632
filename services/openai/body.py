"""What a client still sends once its request is begun: a body, which is bounded, or its hang-up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from typing import TypeVar

from starlette.types import Receive, Scope

from services.errors import TooLargeError, UnsupportedMediaError

Result = TypeVar("Result")


class ClientGoneError(Exception):
    """The client has gone; there is no one to answer."""


def header(scope: Scope, name: bytes) -> bytes:
    """Return the first header called `name` (lower case); empty if there is none."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return b""


def expect_json(scope: Scope) -> None:
    """Check that the request's content type is JSON, or raise UnsupportedMediaError."""
    given = header(scope, b"content-type")
    if given.split(b";")[0].strip().lower() != b"application/json":
        raise not_read(given, "application/json")


def not_read(given: bytes, accepted: str) -> UnsupportedMediaError:
    """Return the error for a content type that the path does not accept."""
    return UnsupportedMediaError(
        f"content-type {given.decode('latin-1')!r} is not supported here; send {accepted}"
    )


async def pieces(
    scope: Scope, receive: Receive, most_bytes: int, *, which: str = ""
) -> AsyncGenerator[bytes, None]:
    """Yield the body as it arrives; `which` explains the limit in the error.

    TooLargeError if it is over `most_bytes`; if its content-length says so, nothing is read.
    """
    too_large = TooLargeError(
        f"the body is over {most_bytes} bytes, more than any valid request here{which}"
    )
    said = header(scope, b"content-length")
    if said.isdigit() and int(said) > most_bytes:
        raise too_large
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > most_bytes:
            raise too_large
        yield piece
        more = message.get("more_body", False)


async def whole(scope: Scope, receive: Receive, most_bytes: int, *, which: str = "") -> bytes:
    """Return the whole body; as for `pieces`."""
    return b"".join([piece async for piece in pieces(scope, receive, most_bytes, which=which)])


async def until_hangup(receive: Receive, work: Coroutine[None, None, Result]) -> Result:
    """Return the result of `work`; if the client hangs up, cancel it and wait until it has ended.

    It runs in the caller's task, which is cancelled as `asyncio.timeout` does it; then
    ClientGoneError is raised.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  this is a coroutine
    before = task.cancelling()
    gone = False

    async def watch() -> None:
        nonlocal gone
        with suppress(Exception):  # whoever cannot be read from has gone, too
            while not (await receive())["type"].endswith(".disconnect"):  # HTTP's or a WebSocket's
                pass
        if task.cancelling() == before:  # else it is ending already, and is left to do so
            gone = task.cancel()

    watching = task.get_loop().create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if not gone or task.cancelling() > before + 1:
            raise  # somebody else has cancelled it
        raise ClientGoneError from None
    finally:
        watching.cancel()
        if gone:
            task.uncancel()
