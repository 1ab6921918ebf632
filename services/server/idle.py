"""An engine that nobody has used for a while gives its memory back; the next request reloads it."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from services.errors import UnavailableError
from services.server.body import trim

log = logging.getLogger("bentovox")

_POLL_S: Final = 1.0
_LOAD_POLL_S: Final = 0.05
_RETRY_S: Final = 5.0


class _Engine(Protocol):
    async def close(self) -> None: ...
    async def start(self) -> None: ...


class Unloading:
    """Unloads a role's engine when it is idle, and loads it for the next request."""

    def __init__(self, engine: _Engine, after_s: float, loads: Callable[[], bool] = bool) -> None:
        """Unload after so many seconds without work; 0 means never.

        `engine.start` may load in the background: `loads` tells whether it still does.
        """
        self.unloaded = False  # or not loaded again yet
        self.after_s = after_s
        self._engine = engine
        self._loads = loads
        self._used = time.monotonic()
        self._changing = asyncio.Lock()
        self._load: asyncio.Task[None] | None = None

    async def watch(self, busy: Callable[[], bool]) -> None:
        """Unload the engine whenever it has not been `busy` for long enough; until cancelled."""
        while self.after_s:
            await asyncio.sleep(min(_POLL_S, self.after_s / 4))
            if busy():
                self._used = time.monotonic()
            elif not self.unloaded and time.monotonic() - self._used >= self.after_s:
                async with self._changing:
                    await self._unload()

    async def loaded(self, wait_s: float) -> None:
        """Return once the engine is loaded; the caller holds a slot, so that it stays so.

        UnavailableError if that takes longer than `wait_s`; it goes on.
        """
        self._used = time.monotonic()
        if not self.unloaded:
            return
        if self._load is None or self._load.done():
            self._load = asyncio.create_task(self._reload())
        try:
            async with asyncio.timeout(wait_s):
                await asyncio.shield(self._load)
        except TimeoutError as error:
            raise UnavailableError(
                "The engine was idle and is being loaded; try again shortly.",
                retry_after_s=_RETRY_S,
            ) from error

    async def _unload(self) -> None:
        self.unloaded = True
        await self._engine.close()
        gc.unfreeze()  # the shell has frozen what was loaded at start
        gc.collect()
        trim()
        log.info("idle for %g s: the engine is unloaded", self.after_s)

    async def _reload(self) -> None:
        async with self._changing:
            began = time.monotonic()
            await self._engine.start()
            while self._loads():  # noqa: ASYNC110  engines tell by a flag only
                await asyncio.sleep(_LOAD_POLL_S)
            gc.collect()
            gc.freeze()
            self._used = time.monotonic()
            self.unloaded = False
            log.info("the engine is loaded again, in %.1f s", time.monotonic() - began)
