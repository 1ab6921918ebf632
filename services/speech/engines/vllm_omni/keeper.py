"""One vLLM-Omni server, kept usable: brought up, watched, and brought up again.

A server of ours is restarted; one at a URL is waited for. A server is dead when its process has
ended, when `GET /health` answers 503, which vLLM-Omni 0.30 does once a stage has no live replica,
or when several requests in a row fail and so does a trial.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from services.errors import ConfigurationError, EngineError, ServiceError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from services.speech.engines.vllm_omni.client import OmniClient
    from services.speech.engines.vllm_omni.process import OmniProcess

    Connect = Callable[[str], OmniClient]

log = logging.getLogger("bentovox.speech.vllm_omni")

PROBE_S: Final = 5.0
"""Between two looks at a server that is up, or that is not ours."""
BACKOFF_S: Final = (1.0, 60.0)
"""The first and the longest wait before another attempt."""

_FAULTS: Final = 3  # failed requests in a row that call for a trial
_MISSES: Final = 3  # probes without an answer while the process lives
_PROGRESS_S: Final = 10.0
_POLL_S: Final = 0.2
_STEADY_S: Final = 60.0  # a server that lasted this long resets the backoff


class _DownError(Exception):
    """The server is not usable; the message says why."""


class Keeper:
    """Keeps one server usable."""

    def __init__(
        self,
        trial: Callable[[OmniClient], Awaitable[None]],
        *,
        url: str,
        launch: Callable[[], Awaitable[OmniProcess]],
        start_timeout_s: float,
    ) -> None:
        """Keep the server at `url`, or one that `launch` starts if that is empty.

        `trial` returns if a server really speaks.
        """
        self._trial = trial
        self._url = url
        self._launch = launch
        self._start_timeout_s = start_timeout_s
        self._client: OmniClient | None = None
        self._process: OmniProcess | None = None
        self._task: asyncio.Task[None] | None = None
        self._alarm = asyncio.Event()  # a request failed, or the process ended
        self._faults = 0

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

    async def start(self, connect: Connect) -> None:
        """Return once the server is usable; `connect` makes the client for a URL.

        Raises:
            ConfigurationError: it did not get there.
        """
        try:
            await self._bring_up(connect)
        except _DownError as error:
            raise ConfigurationError(str(error)) from error
        self._task = asyncio.create_task(self._keep(connect))

    async def close(self) -> None:
        """Stop watching; a server of ours is ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._give_up()

    def fault(self) -> None:
        """Note a request that failed through no fault of its own: the server is looked at now."""
        self._faults += 1
        self._alarm.set()

    def worked(self) -> None:
        """Note a request that succeeded."""
        self._faults = 0

    async def _keep(self, connect: Connect) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            try:
                if self._client is None:
                    await self._bring_up(connect)
                began = loop.time()
                await self._watch(self.client)
            except Exception as error:
                is_told = isinstance(error, _DownError)
                log.error("the vLLM-Omni server is down: %s", error, exc_info=not is_told)  # noqa: TRY400
            lasted = self.ready and loop.time() - began > _STEADY_S
            await self._give_up()
            failures = 1 if lasted else failures + 1
            shortest, longest = BACKOFF_S
            await asyncio.sleep(min(shortest * 2 ** min(failures - 1, 16), longest))

    async def _bring_up(self, connect: Connect) -> None:
        url = self._url
        if not url:
            self._process = await self._launch()
            self._process.exit.add_done_callback(lambda _: self._alarm.set())
            url = self._process.url
        client = connect(url)
        await self._come_up(client)
        self._faults = 0
        self._client = client

    async def _give_up(self) -> None:
        self._client = None
        if self._process is not None:
            await self._process.stop()
            self._process = None  # not before: if this is cancelled, `close` stops it

    async def _come_up(self, client: OmniClient) -> None:
        loop = asyncio.get_running_loop()
        began = told = loop.time()
        while True:
            is_healthy = is_broken = False
            try:
                await client.health()
                is_healthy = True
                await self._trial(client)
            except ServiceError as error:
                why = error.message
                is_broken = is_healthy and not isinstance(error, UnavailableError)
            else:
                log.info("the vLLM-Omni server is up after %.0f s", loop.time() - began)
                return
            self._demand_running()
            waited_s = loop.time() - began
            if is_broken or waited_s > self._start_timeout_s:
                raise _DownError(f"not up after {waited_s:.0f} s: {why}{self._last_words()}")
            if loop.time() - told >= _PROGRESS_S:
                told = loop.time()
                log.info("waiting for the vLLM-Omni server, %.0f s so far: %s", waited_s, why)
            await self._pause(PROBE_S if is_healthy or self._process is None else _POLL_S)

    async def _watch(self, client: OmniClient) -> None:
        """Return never.

        Raises:
            _DownError: the server is dead or cannot be reached.
        """
        misses = 0
        while True:
            await self._pause(min(PROBE_S, 2 * _POLL_S) if misses else PROBE_S)
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
                # Waiting for a server costs nothing; restarting ours may take minutes.
                if self._process is None or misses >= _MISSES:
                    raise _DownError(error.message) from error

    async def _pause(self, longest_s: float) -> None:
        """Wait, unless there is reason to look at once."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._alarm.wait()
        self._alarm.clear()
        self._demand_running()

    def _demand_running(self) -> None:
        process = self._process
        if process is not None and process.exit.done():
            raise _DownError(f"it ended with exit code {process.exit.result()}{self._last_words()}")

    def _last_words(self) -> str:
        return "".join(f"\n  | {line}" for line in (self._process.tail if self._process else ()))
