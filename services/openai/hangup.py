"""Work for a client that may hang up meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.types import Receive

Result = TypeVar("Result")


class ClientGoneError(Exception):
    """The client hung up before its request was whole or answered; there is nobody to answer."""


async def until_hangup(receive: Receive, work: Coroutine[None, None, Result]) -> Result:
    """Return what `work` does; cancel it as soon as the client hangs up, and wait for its end.

    Raises:
        ClientGoneError: the client hung up first.
        Exception: whatever `work` raises.
    """
    working = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(_hangup(receive))
    try:
        await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return await working
        raise ClientGoneError
    finally:
        for task in (working, listening):
            task.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


async def _hangup(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
