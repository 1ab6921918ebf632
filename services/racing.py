"""Runs several coroutines until the first one ends."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine


@asynccontextmanager
async def racing(
    *work: Coroutine[Any, Any, Any], within_s: float | None = None
) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Yield the tasks of `work` once one has ended, or after `within_s`.

    At the end of the block, tasks still running are cancelled and awaited.
    """
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.wait(tasks, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
