"""The pools of backends: which models they serve, and which takes the next request."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from services.backends.backend import Backend, not_ready
from services.errors import no_such_model
from services.openai.models import without_date

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from services.settings.sections import AskingSettings


class Pool:
    """The backends of one role."""

    def __init__(self, role: str, urls: Sequence[str], asking: AskingSettings) -> None:
        self.role = role
        self.backends = [
            Backend(role, f"{role}-{number}", url, asking) for number, url in enumerate(urls)
        ]

    @property
    def ready(self) -> bool:
        """Whether any backend can answer."""
        return any(backend.ready for backend in self.backends)

    @property
    def settled(self) -> bool:
        """Whether there is nothing to wait for: each backend is ready or says that it cannot be."""
        return all(backend.ready or backend.lack for backend in self.backends)

    @property
    def lack(self) -> str:
        """What the backends lack, as reported by the first that lacks anything."""
        return next((backend.lack for backend in self.backends if backend.lack), "")

    @property
    def needs_model(self) -> bool:
        """Whether the backends serve different models, so that the request's model decides."""
        kinds = {frozenset(backend.models) for backend in self.backends if backend.ready}
        return len(kinds) > 1

    def pick(self, model: str | None) -> Backend:
        """Return the ready backend with the fewest outstanding requests among those with `model`.

        If `model` is one of OpenAI's dated names, the name without the date matches too.

        Raises:
            UnavailableError: none is ready.
            NotFoundError: none of the ready ones serves the model.
        """
        ready = [backend for backend in self.backends if backend.ready]
        if not ready:
            raise not_ready(self.role, self.lack)
        if model is not None:
            names = {model, without_date(model)}
            ready = [backend for backend in ready if names & backend.models.keys()]
            if not ready:
                raise no_such_model(model)
        return min(ready, key=lambda backend: backend.outstanding)


class Pools:
    """The pools of all roles that are asked."""

    def __init__(self, urls: Mapping[str, Sequence[str]], asking: AskingSettings) -> None:
        self.answer_timeout_s = asking.answer_timeout_s
        self.connect_timeout_s = asking.connect_timeout_s
        self._probe_interval_s = asking.probe_interval_s
        self.by_role = {role: Pool(role, given, asking) for role, given in urls.items() if given}
        self._all_have_settled = False

    def models(self) -> dict[str, dict[str, Any]]:
        """Return the cards of all models available now, by id."""
        cards: dict[str, dict[str, Any]] = {}
        for pool in self.by_role.values():
            for backend in pool.backends:
                cards.update(backend.models)
        return cards

    def status(self) -> tuple[str, dict[str, str]]:
        """Return ready, degraded, starting or unavailable, and the state of each role.

        It is starting until every role has been ready once or has said what it lacks. After that
        the door stays open as long as any role answers: the crash of one must not take the others
        away.
        """
        states = {
            role: "ready" if pool.ready else pool.lack or "not ready"
            for role, pool in self.by_role.items()
        }
        count = sum(pool.ready for pool in self.by_role.values())
        if all(pool.settled for pool in self.by_role.values()):
            self._all_have_settled = True
        if count == len(states):
            return "ready", states
        if not self._all_have_settled:
            return "starting", states
        return ("degraded" if count else "unavailable"), states

    async def metrics(self) -> dict[str, bytes]:
        """Return the metrics of each ready backend, by name."""
        ready = [backend for backend in self.backends() if backend.ready]
        texts = await asyncio.gather(*(backend.metrics() for backend in ready))
        return {
            backend.name: text
            for backend, text in zip(ready, texts, strict=True)
            if text is not None
        }

    def backends(self) -> list[Backend]:
        """Return every backend of every role."""
        return [backend for pool in self.by_role.values() for backend in pool.backends]

    @asynccontextmanager
    async def probing(self) -> AsyncIterator[None]:
        """Probe every backend repeatedly while the context is open."""
        backends = self.backends()
        tasks = [asyncio.create_task(self._probe(backend)) for backend in backends]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for backend in backends:
                backend.connections.close()

    async def _probe(self, backend: Backend) -> None:
        while True:
            await backend.probe()
            await asyncio.sleep(self._probe_interval_s)
