"""Work that is cancelled when the client hangs up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.types import Receive

Result = TypeVar("Result")


class ClientGoneError(Exception):
    """The client hung up before its request was complete or answered."""


async def until_hangup(receive: Receive, work: Coroutine[None, None, Result]) -> Result:
    """Return the result of `work`; if the client hangs up, cancel it and wait until it has ended.

    It runs in the caller's task, which is cancelled as `asyncio.timeout` does it.

    Raises:
        ClientGoneError: the client hung up first.
        Exception: whatever `work` raises.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  this is a coroutine
    before = task.cancelling()
    gone = False

    def cancel(watching: asyncio.Task[None]) -> None:
        nonlocal gone
        if task.cancelling() == before:  # else it is ending already, and is left to do so
            gone = task.cancel()
        if not watching.cancelled():
            watching.exception()  # marked as seen: whoever cannot be read from has gone, too

    watching = asyncio.ensure_future(_hangup(receive))
    watching.add_done_callback(cancel)
    try:
        return await work
    except asyncio.CancelledError:
        if not gone or task.cancelling() > before + 1:
            raise  # somebody else has cancelled it
        raise ClientGoneError from None
    finally:
        watching.remove_done_callback(cancel)
        watching.cancel()
        if gone:
            task.uncancel()


async def _hangup(receive: Receive) -> None:
    while not (await receive())["type"].endswith(".disconnect"):  # HTTP's or a WebSocket's
        pass
