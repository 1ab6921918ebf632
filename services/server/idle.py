"""An engine that nobody has used for a while gives its memory back; the next request reloads it."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from services.errors import UnavailableError
from services.server.memory import trim

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("bentovox")

_POLL_S: Final = 1.0
_LOAD_POLL_S: Final = 0.05
_RETRY_S: Final = 5.0


class Reloadable(Protocol):
    """What can be unloaded and loaded again: every engine."""

    async def close(self) -> None: ...  # noqa: D102
    async def start(self) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Unloading:
    """When to unload an engine.

    Attributes:
        engine: what `close` unloads and `start` loads, in the background if it likes.
        after_s: how long nothing may have been at work, in seconds; 0 means never.
        loads: whether a load that has begun is still under way.
    """

    engine: Reloadable
    after_s: float
    loads: Callable[[], bool] = bool  # False


class Idle:
    """Unloads a role's engine, and loads it for the next request.

    Attributes:
        unloaded: whether the engine is unloaded, or not loaded yet again.
    """

    def __init__(
        self, role: str, unloading: Unloading, busy: Callable[[], bool], wait_s: float
    ) -> None:
        """Take the role's name, whether it is busy, and how long a request may wait for a load."""
        self.unloaded = False
        self._role = role
        self._unloading = unloading
        self._busy = busy
        self._wait_s = wait_s
        self._used = time.monotonic()
        self._changing = asyncio.Lock()
        self._load: asyncio.Task[None] | None = None

    async def watch(self) -> None:
        """Unload the engine whenever it has been idle for long enough; until cancelled."""
        after_s = self._unloading.after_s
        while True:
            await asyncio.sleep(min(_POLL_S, after_s / 4))
            if self._busy():
                self._used = time.monotonic()
            elif not self.unloaded and time.monotonic() - self._used >= after_s:
                async with self._changing:
                    if not self._busy():
                        await self._unload()

    async def loaded(self) -> None:
        """Return once the engine is loaded; the caller holds a slot, so that it stays so.

        Raises:
            UnavailableError: that takes longer than a request may wait; it goes on.
            ServiceError: it failed.
        """
        self._used = time.monotonic()
        if not self.unloaded and not self._changing.locked():
            return
        if self._load is None or self._load.done():
            self._load = asyncio.create_task(self._reload())
        try:
            async with asyncio.timeout(self._wait_s):
                await asyncio.shield(self._load)
        except TimeoutError as error:
            raise UnavailableError(
                f"The {self._role} engine was idle and is being loaded; try again shortly.",
                retry_after_s=_RETRY_S,
            ) from error

    async def _unload(self) -> None:
        self.unloaded = True
        await self._unloading.engine.close()
        gc.unfreeze()  # the shell has frozen what was loaded at start
        gc.collect()
        trim()
        log.info("%s: idle for %g s, unloaded", self._role, self._unloading.after_s)

    async def _reload(self) -> None:
        async with self._changing:
            if not self.unloaded:
                return
            began = time.monotonic()
            await self._unloading.engine.start()
            while self._unloading.loads():  # noqa: ASYNC110  engines tell by a flag only
                await asyncio.sleep(_LOAD_POLL_S)
            gc.collect()
            gc.freeze()
            self._used = time.monotonic()
            self.unloaded = False
            log.info("%s: loaded again in %.1f s", self._role, time.monotonic() - began)
