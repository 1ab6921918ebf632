"""What a thread makes on its way to the event loop."""

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
    """Hands items over in order; the thread waits while those not taken weigh more than `held`.

    `weigh` says what one weighs. Made in the event loop that takes.
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
        """Hand an item over, from the thread; False when nobody takes any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting <= self._held)
            if self._closed:
                return False
            self._items.append(item)
            self._waiting += self._weigh(item)
        self._tell()
        return True

    def end(self, error: BaseException | None = None) -> None:
        """Say that no more items come, and why if that is an error; the first word counts."""
        with self._changed:
            if not self._ended:
                self._ended, self._error = True, error
        self._tell()

    def close(self) -> None:
        """Take no more; a thread that waits goes on at once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def items(self) -> AsyncGenerator[Item, None]:
        """Yield each item, then raise the error that `end` was given, if any."""
        while True:
            await self._news.wait()
            self._news.clear()
            ended = self._ended  # before the items are taken: none comes after it
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
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._news.set)


async def in_daemon(work: Callable[[], Any]) -> Any:
    """Run `work` in a thread that a process which is told to end does not wait for."""
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
