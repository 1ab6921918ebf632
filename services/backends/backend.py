"""One server of a role: whether it is ready, what it serves, how it is asked; and who is next.

Affinity is rendezvous hashing: each pair of an affinity and a backend has a weight, the greatest
wins. It is how closely a place of the backend follows a place of the affinity on a circle,
and found by bisection, also among a thousand (multi-probe consistent hashing, arXiv 1505.00062).
"""

from __future__ import annotations

import asyncio
import json
import logging
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator
from hashlib import blake2b
from http import HTTPStatus
from itertools import count
from struct import unpack
from typing import Any, Final

from services.backends.connection import HELD_BYTES, Address, Connection, Connections, joined
from services.errors import BackendError, DeadlineError, ServiceError, UnavailableError
from services.settings.sections import AskingSettings

log = logging.getLogger("bentovox.backends")

_PROBE_TIMEOUT_S: Final = 2.0
_SLOW_PROBES: Final = 3  # in a row: the backend is stuck
_FETCH_BYTES: Final = 8 << 20  # no readiness, list of models or metrics is longer
_PLACES: Final = 8  # of each affinity and backend: what prefers them then differs by a tenth
_CIRCLE: Final = 1 << 64
_tickets = count()


class Call:
    """One request to a backend."""

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        body: deque[bytes] | None = None,
    ) -> None:
        """Build a request; a large `body` is removed from its deque as it is sent."""
        self._body = body or deque[bytes]()
        length = sum(map(len, self._body))
        self.is_large = length > HELD_BYTES
        self.begun = False  # else a backend may have seen part of it
        self._method, self._target = method, target
        if length or method == b"POST":
            headers = [*headers, (b"content-length", b"%d" % length)]
        self._headers = b"".join([b"\r\n%b: %b" % pair for pair in headers])

    async def sent(self, connections: Connections, timeout_s: float) -> Connection:
        """Send it and return its connection once the answer's head is there.

        A large body follows as the backend takes it. UnavailableError or DeadlineError if there is
        no connection, BackendError if it breaks off, TimeoutError if the head is late.
        """
        connection = await connections.take()
        self.begun = True
        address = connections.address
        head = b"%b %b%b HTTP/1.1\r\nhost: %b%b\r\n\r\n" % (
            self._method,
            address.prefix.encode(),
            self._target,
            address.authority,
            self._headers,
        )
        if self.is_large:
            await connection.ask(head, self._taken(), timeout_s)
        else:
            await connection.ask(b"".join((head, *self._body)), None, timeout_s)
        return connection

    def _taken(self) -> Iterator[bytes]:
        while self._body:
            piece = self._body.popleft()
            for at in range(0, len(piece), HELD_BYTES):
                yield piece[at : at + HELD_BYTES]


class Backend:
    """One server of a role."""

    def __init__(
        self,
        role: str,
        name: str,
        url: str,
        asking: AskingSettings,
        on_change: Callable[[Backend], None],
    ) -> None:
        """`on_change` is called when whether or for what it is asked may have changed."""
        self.role = role
        self.name = name
        self.url = url
        self.connect_timeout_s = asking.connect_timeout_s
        self.left = False  # its pool: it finishes what it has and takes nothing new
        self.connections = Connections(
            Address.parse(url), self.connect_timeout_s, lambda: self.mark(ready=False)
        )
        self.outstanding = 0
        self.ready = False
        self._on_change = on_change
        self.choice: Choice | None = None  # where it is, while it is ready
        self.lack = ""  # what it says it needs to become ready
        self.short = ""  # what it says it does, being ready, for want of something
        self.models: dict[str, dict[str, Any]] = {}
        self.told: frozenset[str] | None = None  # the models that it last named
        self._knows_models = False  # since it became ready
        self._slow_probes = 0
        self._timeout_s = asking.answer_timeout_s

    def count(self, more: int) -> None:
        """Note so many requests more in flight."""
        self.outstanding += more
        if self.choice is not None:
            self.choice.count(self)

    async def ask(self, call: Call) -> Connection:
        """Send a request and return its connection once the answer's head is there.

        UnavailableError, BackendError or DeadlineError if the backend cannot be reached, breaks off
        or is late. Nothing is sent twice: nobody can tell whether it died while working.
        """
        try:
            return await call.sent(self.connections, self._timeout_s)
        except TimeoutError as exc:
            raise DeadlineError(
                f"The {self.role} service did not answer within {self._timeout_s:g} s."
            ) from exc
        except UnavailableError:
            self.mark(ready=False)  # until the next probe
            raise
        except BackendError:
            # A healthy backend may close the connection to refuse a large body.
            if not call.is_large:
                self.mark(ready=False)
            raise

    async def fetch(self, path: str) -> tuple[int, bytes]:
        """GET a small answer, whole; ServiceError if it is too much, TimeoutError if it is late."""
        connection = await Call(b"GET", path.encode(), []).sent(self.connections, _PROBE_TIMEOUT_S)
        try:
            return connection.status, await joined(connection.pieces(), _FETCH_BYTES)
        finally:
            self.connections.give_back(connection)  # aborts what is not complete

    async def metrics(self) -> bytes | None:
        """Return the text of its `/metrics`, or None if it does not answer soon."""
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                status, text = await self.fetch("/metrics")
        except (TimeoutError, ServiceError):
            return None
        return text if status == HTTPStatus.OK else None

    async def probe(self) -> None:
        """Ask whether the backend is ready and, if it has just become so, for its models."""
        try:
            self.mark(ready=await self._is_ready())
            self._slow_probes = 0
        except TimeoutError:
            # One slow answer does not mean it died: a dying process drops its connections.
            self._slow_probes += 1
            if self._slow_probes >= _SLOW_PROBES:
                self.mark(ready=False)

    def mark(self, *, ready: bool) -> None:
        """Record whether requests can be sent here."""
        ready = ready and not self.left
        if ready != self.ready:
            log.info("backend %s is %s", self.name, "ready" if ready else "not ready")
        if not ready:
            self.models = {}  # it may come back with different ones
            self._knows_models = False
        self.ready = ready
        self._on_change(self)

    def leave(self) -> None:
        """Take no more requests; those in flight go on."""
        log.info("backend %s (%s) leaves its pool", self.name, self.url)
        self.left = True
        self.mark(ready=False)

    async def _is_ready(self) -> bool:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                status, told = await self.fetch("/readyz")
                ready = status == HTTPStatus.OK
                self.lack = "" if ready else _lack(json.loads(told))
                self.short = _lack(json.loads(told)) if b'"degraded"' in told else ""
                if ready and not self._knows_models:
                    models_status, body = await self.fetch("/v1/models")
                    if models_status == HTTPStatus.OK:
                        self.models = {card["id"]: card for card in json.loads(body)["data"]}
                        self.told = frozenset(self.models)
                        self._knows_models = True
                return ready
        except UnavailableError:
            self.lack = self.short = ""  # it may come back with what it lacked
        except (ServiceError, ValueError, LookupError, TypeError) as error:
            log.debug("backend %s: %r instead of its readiness", self.name, error)
        return False


class Choice:
    """The ready backends that serve the same models."""

    def __init__(self) -> None:
        # By requests in flight; of those with as many, the one that has waited longest is first.
        self._order: list[tuple[int, int, Backend]] = []
        self._entry_of: dict[Backend, tuple[int, int, Backend]] = {}
        self._circle: list[tuple[int, str, Backend]] = []

    def __len__(self) -> int:
        return len(self._order)

    def join(self, backend: Backend) -> None:
        """Let it take requests."""
        backend.choice = self
        self._put(backend)
        for place in places(backend.url):
            insort(self._circle, (place, backend.name, backend))

    def leave(self, backend: Backend) -> None:
        """Let it take no more."""
        backend.choice = None
        self._take(backend)
        for place in places(backend.url):
            del self._circle[bisect_left(self._circle, (place, backend.name))]

    def count(self, backend: Backend) -> None:
        """Note how many requests it has in flight now."""
        self._take(backend)
        self._put(backend)

    def _put(self, backend: Backend) -> None:
        entry = self._entry_of[backend] = backend.outstanding, next(_tickets), backend
        insort(self._order, entry)

    def _take(self, backend: Backend) -> None:
        del self._order[bisect_left(self._order, self._entry_of.pop(backend))]

    def least(self, besides: Backend | None) -> Backend | None:
        """Return the one with the fewest requests in flight, if any."""
        return next((backend for *_, backend in self._order if backend is not besides), None)

    def preferred(self, affinity: str) -> Iterator[tuple[int, str, Backend]]:
        """Yield the first for each place of an affinity, and how far behind that place it is."""
        for place in places(affinity):
            at = bisect_left(self._circle, (place,)) % len(self._circle)
            found, name, backend = self._circle[at]
            yield (found - place) % _CIRCLE, name, backend


def places(text: str) -> tuple[int, ...]:
    """Return its places on the circle."""
    digest = blake2b(text.encode(errors="replace"), digest_size=8 * _PLACES).digest()
    return unpack(f"<{_PLACES}Q", digest)


def not_ready(role: str, lack: str = "") -> UnavailableError:
    """Return the error for a role without a ready backend; `lack` is what it says it needs."""
    if lack:
        return UnavailableError(f"The {role} service is not ready: {lack}.", retry_after_s=30)
    return UnavailableError(f"The {role} service is not ready; try again shortly.", retry_after_s=2)


def _lack(told: dict[str, Any]) -> str:
    """Return what a backend says it lacks, also of its engine while another stands in for it."""
    if told["status"] == "degraded":
        return str(told["detail"].get("engine", ""))
    if told["status"] != "unavailable":
        return ""
    detail = told["detail"]
    given = detail.values() if isinstance(detail, dict) else [detail]
    return ", ".join(str(one) for one in given) or "unavailable"
