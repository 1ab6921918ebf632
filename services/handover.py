"""Hands items from a thread to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

Item = TypeVar("Item")


class Handover(Generic[Item]):
    """An ordered queue; the thread waits while the items in it weigh more than `held`.

    `weigh` returns an item's weight. Create it in the event loop that takes the items.
    """

    def __init__(self, held: int, weigh: Callable[[Item], int]) -> None:
        self._held = held
        self._weigh = weigh
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._changed = threading.Condition()
        self._items: deque[Item] = deque()
        self._waiting = 0
        self._closed = False
        self._ended = False
        self._error: BaseException | None = None

    def put(self, item: Item) -> bool:
        """Add an item, from the thread; return False once `close` was called."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting <= self._held)
            if self._closed:
                return False
            self._items.append(item)
            self._waiting += self._weigh(item)
        self._tell()
        return True

    def end(self, error: BaseException | None = None) -> None:
        """Mark the end of the items, with the error that caused it; the first call counts."""
        with self._changed:
            if not self._ended:
                self._ended, self._error = True, error
        self._tell()

    def close(self) -> None:
        """Accept no more items, and wake a waiting thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def items(self) -> AsyncGenerator[Item, None]:
        """Yield each item, then raise the error given to `end`, if any."""
        while True:
            await self._news.wait()
            self._news.clear()
            ended = self._ended  # read before taking the items, as none comes after it
            while self._items:
                with self._changed:
                    item = self._items.popleft()
                    self._waiting -= self._weigh(item)
                    self._changed.notify_all()
                yield item
            if ended:
                break
        if self._error is not None:
            raise self._error

    def _tell(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._news.set)


async def in_daemon(work: Callable[[], Any]) -> Any:
    """Run `work` in a thread that does not delay the process's end."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if not done.cancelled():
            done.set_exception(error) if error else done.set_result(result)

    def run() -> None:
        try:
            result, error = work(), None
        except BaseException as caught:  # noqa: BLE001  raised where it is awaited
            result, error = None, caught
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=work.__qualname__, daemon=True).start()
    return await done
