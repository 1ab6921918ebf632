"""One vLLM-Omni server, kept usable: brought up, watched, and brought up again.

A server of ours is started anew when it ends or is dead; one at a URL is waited for. Dead is: its
process has ended; `GET /health` says 503, which vLLM-Omni 0.30 does once a stage has no live
replica; or requests fail in a row and so does a trial, for servers whose health says less.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Any, Final

from services.errors import ConfigurationError, EngineError, ServiceError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from services.speech.engines.vllm_omni.client import OmniClient
    from services.speech.engines.vllm_omni.process import OmniProcess

    Launch = Callable[[], Awaitable[tuple[OmniProcess, str]]]

log = logging.getLogger("bentovox.speech.vllm_omni")

_FAULTS: Final = 3  # requests that failed with none between that did not: time for a trial
_MISSES: Final = 3  # probes without an answer, while the process lives
_PROGRESS_S: Final = 10.0
_POLL_S: Final = 0.2
_STEADY_S: Final = 60.0  # a server that lasted so long starts the backoff from the beginning


class _DownError(Exception):
    """The server is not usable, for the reason that it carries."""


class Keeper:
    """Keeps one server; `client` is there while it is usable."""

    def __init__(
        self,
        connect: Callable[[str], OmniClient],
        trial: Callable[[OmniClient], Awaitable[None]],
        *,
        url: str = "",
        launch: Launch | None = None,
        start_timeout_s: float,
        probe_s: float,
        backoff_s: tuple[float, float],
    ) -> None:
        """Keep the server at `url`, or the one that `launch` starts and returns the URL of.

        Args:
            connect: makes the client for a URL.
            trial: returns if the server really speaks.
            url: of a server that is not ours.
            launch: starts one of ours.
            start_timeout_s: the longest that a start may take.
            probe_s: between two looks at a server that is up.
            backoff_s: the first and the longest wait before a new start.
        """
        self._connect = connect
        self._trial = trial
        self._url = url
        self._launch = launch
        self._start_timeout_s = start_timeout_s
        self._probe_s = probe_s
        self._backoff_s = backoff_s
        self._client: OmniClient | None = None
        self._task: asyncio.Task[None] | None = None
        self._first: asyncio.Future[None] | None = None
        self._process: OmniProcess | None = None
        self._alarm: asyncio.Future[None] | None = None
        self._suspected = False
        self._faults = 0
        self._up_at = math.inf

    @property
    def ready(self) -> bool:
        """Whether the server is usable, as far as known."""
        return self._client is not None

    @property
    def client(self) -> OmniClient:
        """The way to the server.

        Raises:
            UnavailableError: it is not usable now.
        """
        if self._client is None:
            raise UnavailableError("the vLLM-Omni server is not running", retry_after_s=5.0)
        return self._client

    async def start(self) -> None:
        """Return once the server is usable.

        Raises:
            ConfigurationError: it did not get there.
        """
        self._first = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._keep())
        try:
            await self._first
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop looking; a server of ours is ended."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        process, self._process = self._process, None
        if process is not None:
            await process.stop()

    def fault(self) -> None:
        """Be told that a request failed through no fault of its own: look at once."""
        self._faults += 1
        self._suspected = True
        if self._alarm is not None and not self._alarm.done():
            self._alarm.set_result(None)

    def worked(self) -> None:
        """Be told that a request succeeded."""
        self._faults = 0

    async def _keep(self) -> None:
        failures = 0
        while True:
            self._up_at = math.inf
            try:
                await self._once()
            except Exception as error:
                if self._first is not None and not self._first.done():
                    down = isinstance(error, _DownError)
                    self._first.set_exception(ConfigurationError(str(error)) if down else error)
                    return
                log.error(  # noqa: TRY400  the reason is all there is to know of it
                    "the vLLM-Omni server is down: %s",
                    error,
                    exc_info=not isinstance(error, _DownError),
                )
            steady = asyncio.get_running_loop().time() - self._up_at > _STEADY_S
            failures = 1 if steady else failures + 1
            shortest, longest = self._backoff_s
            await asyncio.sleep(min(shortest * 2 ** min(failures - 1, 16), longest))

    async def _once(self) -> None:
        """Bring the server up and watch it until it is down.

        Raises:
            _DownError: always, in the end.
        """
        process, url = (None, self._url) if self._launch is None else await self._launch()
        self._process = process
        try:
            client = self._connect(url)
            await self._come_up(client, process)
            self._faults = 0
            self._suspected = False
            self._client = client
            self._up_at = asyncio.get_running_loop().time()
            if self._first is not None and not self._first.done():
                self._first.set_result(None)
            await self._watch(client, process)
        finally:
            self._client = None
            if process is not None:
                await process.stop()  # when `close` cancels it, that stops the process
                self._process = None

    async def _come_up(self, client: OmniClient, process: OmniProcess | None) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        told = began
        while True:
            _demand_running(process)
            first = self._first is None or not self._first.done()
            pause_s = _POLL_S if process is not None or first else self._probe_s
            broken = False
            try:
                await client.health()
                pause_s = self._probe_s
                broken = process is not None or first
                await self._trial(client)
            except ServiceError as error:
                why = error.message
                broken = broken and not isinstance(error, UnavailableError)
            else:
                log.info("the vLLM-Omni server is up after %.0f s", loop.time() - began)
                return
            _demand_running(process)
            waited_s = loop.time() - began
            late = waited_s > self._start_timeout_s and (process is not None or first)
            if broken or late:
                raise _DownError(f"not up after {waited_s:.0f} s: {why}{_tail(process)}")
            if loop.time() - told >= _PROGRESS_S:
                told = loop.time()
                log.info("waiting for the vLLM-Omni server, %.0f s so far: %s", waited_s, why)
            await self._pause(pause_s, process)

    async def _watch(self, client: OmniClient, process: OmniProcess | None) -> None:
        misses = 0
        while True:
            await self._pause(min(self._probe_s, _POLL_S * 2) if misses else self._probe_s, process)
            _demand_running(process)
            try:
                await client.health()
                misses = 0
                if self._faults >= _FAULTS:
                    self._faults = 0
                    await self._trial(client)
            except EngineError as error:
                raise _DownError(error.message) from error
            except ServiceError as error:
                misses += 1
                # To wait for a server costs nothing; to start ours anew may take minutes.
                if process is None or misses >= _MISSES:
                    raise _DownError(error.message) from error

    async def _pause(self, longest_s: float, process: OmniProcess | None) -> None:
        """Wait, until there is reason to look at once."""
        if not self._suspected:
            self._alarm = asyncio.get_running_loop().create_future()
            waited: set[asyncio.Future[Any]] = {self._alarm}
            if process is not None:
                waited.add(process.exit)
            await asyncio.wait(waited, timeout=longest_s, return_when=asyncio.FIRST_COMPLETED)
            self._alarm = None
        self._suspected = False


def _demand_running(process: OmniProcess | None) -> None:
    if process is not None and process.exit.done():
        raise _DownError(f"it ended with exit code {process.exit.result()}{_tail(process)}")


def _tail(process: OmniProcess | None) -> str:
    lines = process.tail if process is not None else ()
    return "".join(f"\n  | {line}" for line in lines)
