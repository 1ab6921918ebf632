"""Work beside the event loop's own: threads that hand it something, and tasks that race."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class _End:
    error: BaseException | None


class Handover(Generic[Item]):
    """An ordered queue; create it in the event loop that takes the items."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Item | _End] = asyncio.Queue()
        self._closed = False

    def put(self, item: Item) -> bool:
        """Add an item, from the thread; return False once `close` was called."""
        self._add(item)
        return not self._closed

    def end(self, error: BaseException | None = None) -> None:
        """Mark the end of the items, with the error that caused it; the first call counts."""
        self._add(_End(error))

    def close(self) -> None:
        """Have `put` return False from now on."""
        self._closed = True

    async def items(self) -> AsyncGenerator[Item, None]:
        """Yield each item, then raise the error given to `end`, if any."""
        while not isinstance(item := await self._queue.get(), _End):
            yield item
        if item.error is not None:
            raise item.error

    def _add(self, item: Item | _End) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)


async def in_daemon(work: Callable[[], Any]) -> Any:
    """Run `work` in a thread that does not delay the process's end."""
    done: concurrent.futures.Future[Any] = concurrent.futures.Future()
    done.set_running_or_notify_cancel()  # whoever waits may be cancelled, the thread goes on

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001  raised where it is awaited
            done.set_exception(error)

    threading.Thread(target=run, name=work.__qualname__, daemon=True).start()
    return await asyncio.wrap_future(done)


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
