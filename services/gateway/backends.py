"""Backends and their pools: who is ready, which models each serves, who takes the next request."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from services.errors import ServiceError, UnavailableError, no_such_model
from services.gateway.upstream import Address, Connections
from services.openai.models import without_date

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from services.settings.sections import GatewaySettings

log = logging.getLogger("bentovox.gateway")

_PROBE_TIMEOUT_S = 2.0
_SLOW_PROBES = 3  # in a row, and the backend counts as stuck
_OK = 200


class Backend:
    """One server of a role."""

    def __init__(self, role: str, name: str, url: str, gateway: GatewaySettings) -> None:
        self.role = role
        self.name = name
        self.connections = Connections(
            Address.parse(url), gateway.connect_timeout_s, lambda: self.mark(ready=False)
        )
        self.outstanding = 0
        self.ready = False
        self.lack = ""  # what it says that it cannot be ready without
        self._slow_probes = 0
        self.models: dict[str, dict[str, Any]] = {}

    async def probe(self) -> None:
        """Ask whether the backend can answer, and, when it has just become able to, its models."""
        try:
            self.mark(ready=await self._is_ready())
        except TimeoutError:
            # One slow answer is no death: a process that dies drops its connections.
            self._slow_probes += 1
            if not self.ready or self._slow_probes >= _SLOW_PROBES:
                self.mark(ready=False)
        else:
            self._slow_probes = 0

    async def check_alive(self) -> None:
        """Return if the backend answers now.

        Raises:
            UnavailableError: it does not.
        """
        try:
            alive = await self._is_ready()
        except TimeoutError:
            alive = False
        if not alive:
            raise _not_ready(self.role, self.lack)

    async def _is_ready(self) -> bool:
        """Ask for readiness and, where they are not known, the models; TimeoutError if slow."""
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                status, told = await self.fetch("/readyz")
                self.lack = "" if status == _OK else _lack(json.loads(told))
                if status == _OK and not self.models:
                    models_status, body = await self.fetch("/v1/models")
                    if models_status == _OK:
                        self.models = {card["id"]: card for card in json.loads(body)["data"]}
        except (ServiceError, ValueError, LookupError, TypeError):
            return False
        return status == _OK

    def mark(self, *, ready: bool) -> None:
        """Note whether requests can be sent here."""
        if ready != self.ready:
            log.info("backend %s is %s", self.name, "ready" if ready else "not ready")
        if not ready:
            self.models = {}  # it may come back with others
        self.ready = ready

    async def fetch(self, path: str) -> tuple[int, bytes]:
        """GET a small answer from the backend.

        Raises:
            ServiceError: the backend cannot be reached or broke off.
        """
        connection, _ = await self.connections.take()
        pieces: list[bytes] = []
        try:
            host = self.connections.address.authority
            connection.send(b"GET %b HTTP/1.1\r\nhost: %b\r\n\r\n" % (path.encode(), host))
            await connection.head()
            connection.flow_to(pieces.append)
            await connection.ended()
        except BaseException:
            connection.abort()
            raise
        self.connections.give_back(connection)
        return connection.status, b"".join(pieces)


class Pool:
    """The backends of one role."""

    def __init__(self, role: str, urls: Sequence[str], gateway: GatewaySettings) -> None:
        self.role = role
        self.backends = [
            Backend(role, f"{role}-{number}", url, gateway) for number, url in enumerate(urls)
        ]

    @property
    def ready(self) -> bool:
        """Whether any backend can answer."""
        return any(backend.ready for backend in self.backends)

    @property
    def settled(self) -> bool:
        """Whether nobody needs to wait: each backend is ready, or says that it cannot be."""
        return all(backend.ready or backend.lack for backend in self.backends)

    @property
    def lack(self) -> str:
        """What the first of its backends that lacks anything says of it."""
        return next((backend.lack for backend in self.backends if backend.lack), "")

    @property
    def needs_model(self) -> bool:
        """Whether the backends serve different models, so that a request's model decides."""
        kinds = {frozenset(backend.models) for backend in self.backends if backend.ready}
        return len(kinds) > 1

    def pick(self, model: str | None) -> Backend:
        """Return the ready backend with the fewest outstanding requests, of those with `model`.

        With one of OpenAI's dated names it may be the one without the date, too.

        Raises:
            UnavailableError: none is ready.
            NotFoundError: none of those that are ready serves the model.
        """
        ready = [backend for backend in self.backends if backend.ready]
        if not ready:
            raise _not_ready(self.role, self.lack)
        if model is not None:
            names = {model, without_date(model)}
            ready = [backend for backend in ready if names & backend.models.keys()]
            if not ready:
                raise no_such_model(model)
        return min(ready, key=lambda backend: backend.outstanding)


class Pools:
    """All roles behind the gateway."""

    def __init__(self, urls: Mapping[str, Sequence[str]], gateway: GatewaySettings) -> None:
        self.gateway = gateway
        self.by_role = {role: Pool(role, given, gateway) for role, given in urls.items() if given}
        self._all_have_settled = False

    def models(self) -> dict[str, dict[str, Any]]:
        """Return the cards of every model that can be asked for now, by id."""
        cards: dict[str, dict[str, Any]] = {}
        for pool in self.by_role.values():
            for backend in pool.backends:
                cards.update(backend.models)
        return cards

    def status(self) -> tuple[str, dict[str, str]]:
        """Return ready, degraded, starting or failed, and the state of each role.

        Starting lasts until every role was ready once, or has said that it lacks what it needs.
        After that the door stays open as long as any role answers: the crash of one must not take
        the others away.
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
        """Return the metrics of each backend that is ready, by its name."""
        ready = [backend for backend in self.backends() if backend.ready]
        answers = await asyncio.gather(
            *(asyncio.wait_for(backend.fetch("/metrics"), _PROBE_TIMEOUT_S) for backend in ready),
            return_exceptions=True,
        )
        return {
            backend.name: answer[1]
            for backend, answer in zip(ready, answers, strict=True)
            if not isinstance(answer, BaseException) and answer[0] == _OK
        }

    def backends(self) -> list[Backend]:
        """Return every backend of every role."""
        return [backend for pool in self.by_role.values() for backend in pool.backends]

    @asynccontextmanager
    async def probing(self) -> AsyncIterator[None]:
        """Probe every backend again and again while the context is open."""
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
            await asyncio.sleep(self.gateway.probe_interval_s)


def _lack(told: dict[str, Any]) -> str:
    """Return what a backend says that it lacks, if it is not just on its way."""
    if told["status"] != "unavailable":
        return ""
    return ", ".join(str(one) for one in told["detail"].values()) or "unavailable"


def _not_ready(role: str, lack: str = "") -> UnavailableError:
    if lack:
        return UnavailableError(f"The {role} service is not ready: {lack}.", retry_after_s=30)
    return UnavailableError(f"The {role} service is not ready; try again shortly.", retry_after_s=2)
