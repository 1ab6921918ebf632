"""Work that is cancelled when the client hangs up."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from services.racing import racing

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.types import Receive

Result = TypeVar("Result")


class ClientGoneError(Exception):
    """The client hung up before its request was complete or answered."""


async def until_hangup(receive: Receive, work: Coroutine[None, None, Result]) -> Result:
    """Return the result of `work`; if the client hangs up, cancel it and wait until it has ended.

    Raises:
        ClientGoneError: the client hung up first.
        Exception: whatever `work` raises.
    """
    async with racing(work, _hangup(receive)) as (working, _):
        if working.done():
            result: Result = working.result()
            return result
        raise ClientGoneError


async def _hangup(receive: Receive) -> None:
    while not (await receive())["type"].endswith(".disconnect"):  # HTTP's or a WebSocket's
        pass
