"""The pools of backends: which models they serve, and which takes the next request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any, Final, TypeVar

from services.backends.backend import Backend, Call, Choice, not_ready
from services.backends.connection import Connection
from services.backends.sources import Source, source_of
from services.errors import DeadlineError, ServiceError, UnavailableError, no_such_model
from services.openai.models import without_date
from services.server import telemetry
from services.server.uvicorn_http import Draining
from services.settings.sections import AskingSettings

log = logging.getLogger("bentovox.backends")

AHEAD: Final = 8
"""How many requests more than the least loaded backend one may have and still keep affinity."""

_STRICT: Final = frozenset({"chat"})  # roles that refuse a model that they do not serve
_LOOK_S: Final = 1.0  # how often a waiting request looks whether the server was told to end

Reached = TypeVar("Reached")


class Pool:
    """The backends of one role."""

    def __init__(
        self, role: str, urls: Sequence[str], asking: AskingSettings, ahead: int = AHEAD
    ) -> None:
        self.role = role
        self._ahead = ahead
        self.backends: list[Backend] = []
        self.waiting = 0
        self._became_ready = asyncio.Event()
        self._choices: dict[frozenset[str], Choice] = {}  # by the models they serve
        self._coming: set[Backend] = set()  # not ready, and not leaving
        self._show()
        self._asking = asking
        self._sources: list[Source] = []
        for given in urls:
            if (source := source_of(given)) is None:
                self._join(given)
            else:
                self._sources.append(source)

    def _join(self, url: str) -> Backend:
        names = {backend.name for backend in self.backends}
        number = next(n for n in count() if f"{self.role}-{n}" not in names)
        backend = Backend(self.role, f"{self.role}-{number}", url, self._asking, self._sort)
        self.backends.append(backend)
        self._coming.add(backend)
        return backend

    def _sort(self, backend: Backend) -> None:
        """Put a backend among those that serve the same, and none that is not ready."""
        models = frozenset(backend.models)
        here = backend.choice
        there = self._choices.setdefault(models, Choice()) if backend.ready else None
        if there is here is not None:
            return
        (self._coming.discard if backend.ready or backend.left else self._coming.add)(backend)
        if here is not None:
            here.leave(backend)
        if there is not None:
            there.join(backend)
            self._became_ready.set()
        self._choices = {kind: one for kind, one in self._choices.items() if one}

    def _show(self) -> None:
        """Report the backends and the waiting requests whenever metrics are read."""
        telemetry.HELD.labels(self.role).set_function(lambda: self.waiting)
        telemetry.ASKED.labels(self.role).set_function(
            lambda: self.waiting + sum(one.outstanding for one in self.backends)
        )
        states: dict[str, Callable[[], int]] = {
            "ready": lambda: sum(map(len, self._choices.values())),
            "not_ready": lambda: len(self._coming),
            "leaving": lambda: sum(one.left for one in self.backends),
        }
        for state, number in states.items():
            telemetry.BACKENDS.labels(self.role, state).set_function(number)

    async def keep(self) -> None:
        """Probe every backend repeatedly and follow the sources, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for backend in self.backends:
                tasks.create_task(self._probe(backend))
            for source in self._sources:
                tasks.create_task(self._follow(source, tasks))

    async def _follow(self, source: Source, tasks: asyncio.TaskGroup) -> None:
        known: dict[str, Backend] = {}
        async for urls in source.changes():
            for url in urls - known.keys():
                known[url] = self._join(url)
                tasks.create_task(self._probe(known[url]))
            for url in known.keys() - urls:
                if source.is_sure or not known[url].ready:
                    known.pop(url).leave()

    async def _probe(self, backend: Backend) -> None:
        """Probe a backend while it is in the pool; remove it when its last stream has ended."""
        while not backend.left:
            try:
                await backend.probe()
            except Exception:  # an error here would end all probes of the role
                log.exception("backend %s: its probe failed", backend.name)
                backend.mark(ready=False)
            await asyncio.sleep(self._asking.probe_interval_s)
        while backend.outstanding:  # noqa: ASYNC110  checked rarely
            await asyncio.sleep(self._asking.probe_interval_s)
        self.backends.remove(backend)
        backend.connections.close()

    @property
    def ready(self) -> bool:
        """Whether any backend can answer."""
        return bool(self._choices)

    @property
    def holds(self) -> bool:
        """Whether requests may wait for the role, as when it has been scaled to zero."""
        return self._asking.hold_s > 0 < self._asking.queue

    @property
    def state(self) -> str:
        """Describe its state in a few words."""
        ready = sum(backend.ready for backend in self.backends)
        if 0 < ready < len(self.backends):
            return f"ready ({ready} of {len(self.backends)})"
        if not ready:
            return self.lack or "not ready"
        return next((one.short for one in self.backends if one.short), "ready")

    @property
    def settled(self) -> bool:
        """Whether there is nothing to wait for: each backend is ready or says that it cannot be."""
        return all(one.ready or one.lack for one in self.backends) if self.backends else self.holds

    @property
    def lack(self) -> str:
        """What the backends lack, as reported by the first that lacks anything."""
        return next((one.lack for one in self.backends if one.lack), "")

    @property
    def needs_model(self) -> bool:
        """Whether the backends serve different models, so that the request's model decides.

        Those of a strict role may: one that starts has not named its models yet.
        """
        kinds: set[frozenset[str] | None] = {*self._choices}
        if self.role in _STRICT:
            kinds |= {one.told for one in self._coming}
        return len(kinds) > 1

    @property
    def has_choice(self) -> bool:
        """Whether more than one backend can answer, so that it matters which one is asked."""
        return sum(map(len, self._choices.values())) > 1

    def pick(
        self, model: str | None, affinity: str | None = None, *, besides: Backend | None = None
    ) -> Backend:
        """Return the ready backend that takes the next request.

        It is the one with the fewest requests in flight among those with `model`; for one of
        OpenAI's dated names, the name without the date matches too. Requests with the same
        `affinity` go to the same backend, unless it has over `ahead` requests more than the least
        loaded one; then to the next in an order that depends on the affinity.

        UnavailableError if none is ready besides `besides`, or only one that is not may serve the
        model; NotFoundError if none serves it.
        """
        choices = list(self._choices.values())
        if model is not None and choices:
            names = {model, without_date(model)}
            choices = [one for models, one in self._choices.items() if names & models]
            if not (choices or any(one.told is None or names & one.told for one in self._coming)):
                raise no_such_model(model)
        idle = [one for choice in choices if (one := choice.least(besides))]
        if not idle:
            raise not_ready(self.role, self.lack)
        least = min(idle, key=lambda backend: backend.outstanding)
        if affinity is None:
            return least
        most = least.outstanding + self._ahead
        preferred = sorted(one for choice in choices for one in choice.preferred(affinity))
        near = (one for *_, one in preferred if one.outstanding <= most and one is not besides)
        return next(near, least)

    async def until_ready(self) -> None:
        """Wait for a ready backend, as long as the settings allow; `pick` then tells the result.

        A server that was told to end holds nobody: another one may answer.
        """
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._asking.hold_s
        if self.lack or self.waiting >= self._asking.queue:
            return
        self.waiting += 1
        try:
            while not (self.ready or Draining.begun) and (left_s := end_s - loop.time()) > 0:
                self._became_ready.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left_s, _LOOK_S)):
                        await self._became_ready.wait()
        finally:
            self.waiting -= 1

    @asynccontextmanager
    async def reached(
        self,
        reach: Callable[[Backend], Awaitable[Reached]],
        model: str | None = None,
        affinity: str | None = None,
        *,
        begun: Callable[[], bool] = bool,
    ) -> AsyncIterator[tuple[Backend, Reached]]:
        """Yield a backend and what `reach` returned for it, and count that as a request in flight.

        One that could not be reached in time is replaced by another one, once, unless it has
        `begun` to work.
        """
        backend = self.pick(model, affinity)
        backend.count(1)
        try:
            try:
                found = await reach(backend)
            except (DeadlineError, UnavailableError) as error:
                if begun():
                    raise
                try:
                    other = self.pick(model, affinity, besides=backend)
                except ServiceError:
                    raise error from None
                backend.count(-1)
                other.count(1)
                backend = other
                found = await reach(backend)
            yield backend, found
        finally:
            backend.count(-1)

    @asynccontextmanager
    async def answering(
        self, call: Call, model: str | None = None, affinity: str | None = None
    ) -> AsyncIterator[Connection]:
        """Send a request to a backend, and yield its connection once the answer's head is there.

        The connection is kept for the next request if the answer is read in full.
        """
        asked = self.reached(lambda one: one.ask(call), model, affinity, begun=lambda: call.begun)
        async with asked as (backend, connection):
            try:
                yield connection
            finally:
                backend.connections.give_back(connection)


class Pools:
    """The pools of all roles that are asked."""

    def __init__(
        self, urls: Mapping[str, Sequence[str]], asking: AskingSettings, ahead: int = AHEAD
    ) -> None:
        self.answer_timeout_s = asking.answer_timeout_s
        self.by_role = {
            role: Pool(role, given, asking, ahead) for role, given in urls.items() if given
        }
        self._all_have_settled = False

    def models(self) -> dict[str, dict[str, Any]]:
        """Return the cards of all models available now, by id."""
        return {name: card for one in self.backends() for name, card in one.models.items()}

    def status(self) -> tuple[str, dict[str, str]]:
        """Return ready, degraded, starting or unavailable, and the state of each role.

        It is starting until every role has been ready once or has said what it lacks; after that,
        the crash of one must not take the others away.
        """
        states = {role: pool.state for role, pool in self.by_role.items()}
        ready = sum(pool.ready for pool in self.by_role.values())
        if all(pool.settled for pool in self.by_role.values()):
            self._all_have_settled = True
        if ready == len(states):
            return "ready", states
        if not self._all_have_settled:
            return "starting", states
        held = any(pool.holds and not pool.lack for pool in self.by_role.values())
        return ("degraded" if ready or held else "unavailable"), states

    async def metrics(self) -> dict[str, bytes]:
        """Return the metrics of each ready backend, by name."""
        ready = [backend for backend in self.backends() if backend.ready]
        texts = await asyncio.gather(*(backend.metrics() for backend in ready))
        told = zip(ready, texts, strict=True)
        return {backend.name: text for backend, text in told if text is not None}

    def backends(self) -> list[Backend]:
        """Return every backend of every role."""
        return [backend for pool in self.by_role.values() for backend in pool.backends]

    @asynccontextmanager
    async def probing(self) -> AsyncIterator[None]:
        """Keep every pool up to date while the context is open."""
        tasks = [asyncio.create_task(pool.keep()) for pool in self.by_role.values()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for backend in self.backends():
                backend.connections.close()
