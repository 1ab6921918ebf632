"""Adding to a store on disk in such a way that a hang-up in the middle leaves nothing behind."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from services.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

Item = TypeVar("Item")


@asynccontextmanager
async def added(
    add: Callable[[], Item], remove: Callable[[Item], object]
) -> AsyncGenerator[Item, None]:
    """Call `add` in a thread and yield what it made; `remove` it if the block fails.

    A thread cannot be cancelled: when the block is, also before `add` is through, this waits for
    it and takes its work back.

    Raises:
        Exception: whatever `add`, `remove` or the block raises.
    """
    adding = asyncio.ensure_future(asyncio.to_thread(add))
    try:
        yield await asyncio.shield(adding)
    except BaseException:
        await asyncio.wait({adding})
        if adding.exception() is None:
            with suppress(NotFoundError):  # somebody else was quicker
                await asyncio.to_thread(remove, adding.result())
        raise
