"""A role as it is served: what it hands to its shell, what its visits share and have in common.

A visit is a request or a WebSocket. The role's own application sees it only after it was let in.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from typing import Final

from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from services.errors import MethodNotAllowedError, NotFoundError, ServiceError
from services.openai import reading
from services.openai.answers import Handlers
from services.openai.body import ClientGoneError, header
from services.openai.errors import INTERNAL_MESSAGE
from services.server import telemetry
from services.server.admission import Admission, Limits
from services.server.body import Held
from services.server.idle import Unloading
from services.server.origins import Callers
from services.server.uvicorn_http import Draining

ALIVE = frozenset({"/livez", "/healthz"})
READY = frozenset({"/readyz", "/health"})
METRICS = "/metrics"
_QUIET: Final = ALIVE | READY | {METRICS}

log = logging.getLogger("bentovox")
access_log = logging.getLogger("bentovox.access")

_SAFE_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_GONE: Final = 499
"""nginx's status for a client that hung up before there was an answer."""


def no_such_path(method: str, path: str) -> NotFoundError:
    """Return the error for an unknown path."""
    return NotFoundError(
        f"Unknown request URL: {method} {path}. See GET /v1/models and the documentation.",
        code="unknown_url",
    )


@dataclass(frozen=True)
class Readiness:
    """Whether a role can answer now, and in a few words what it is doing.

    `status` is ready, degraded, idle (loads its engine for the next request), starting, unavailable
    (will not become ready by itself; `detail` says what is missing), failed or draining.
    """

    status: str
    detail: dict[str, str]

    @property
    def can_answer(self) -> bool:
        """Whether requests are accepted."""
        return self.status in {"ready", "degraded", "idle"}


_DRAINING = Readiness("draining", {"server": "was told to end"})
_IDLE = Readiness("idle", {"engine": "unloaded; the next request loads it"})


async def _own_metrics() -> bytes:
    return telemetry.render()


@dataclass(frozen=True)
class RoleApp:
    """What a role hands to its shell.

    In `handlers` paths are templates: `{}` matches one segment and `{*}` the rest, since model ids
    contain slashes. GET's handler answers HEAD as well. A handler raises `ServiceError` or sends a
    response. Everything else is 404, or 405 if the path takes other methods.
    """

    role: str  # a label of its metrics
    handlers: Handlers
    limits: Limits
    body_limit_bytes: int  # also of one message of a WebSocket
    readiness: Callable[[], Readiness]  # handlers refuse what they cannot answer now
    lifespan: Callable[[], AbstractAsyncContextManager[object]]
    slotless: frozenset[str] = frozenset()  # templates whose POST takes no slot, as others do
    body_memory_bytes: int = 512 << 20  # of all bodies
    sockets: Mapping[str, ASGIApp] = field(default_factory=dict)  # see services.server.websocket
    callers: Callers = field(default_factory=Callers)
    guard: Callable[[Scope], None] | None = None  # may refuse what is for a path of the role
    metrics: Callable[[], Awaitable[bytes]] = _own_metrics
    unloading: Unloading | None = None  # of the engine, for a role with one


class Routes:
    """Finds the template of a role's path."""

    def __init__(self, routes: Iterable[tuple[str, str]]) -> None:
        """Take methods and templates, as in `RoleApp.handlers`."""
        self._methods: dict[str, set[str]] = defaultdict(set)  # by template
        for method, template in routes:
            self._methods[template] |= {"GET", "HEAD"} if method == "GET" else {method}
        self._patterns = {_pattern(one): one for one in self._methods if "{" in one}

    def find(self, method: str, path: str) -> str:
        """Return the template of `path`, or raise NotFoundError or MethodNotAllowedError."""
        if path not in self._methods or "{" in path:
            found = (one for pattern, one in self._patterns.items() if pattern.match(path))
            if (template := next(found, None)) is None:
                raise no_such_path(method, path)
            path = template
        methods = self._methods[path]
        if method not in methods:
            allowed = ", ".join(sorted(methods))
            raise MethodNotAllowedError(
                f"Method {method} is not allowed for {path}; use {allowed}.", methods=methods
            )
        return path


class Serving:
    """A role's application, and what its requests and WebSockets share."""

    def __init__(
        self,
        app: RoleApp,
        bento: Starlette | None = None,
        *,
        strict: bool = False,
        hosts: Sequence[str] = (),
    ) -> None:
        """Serve `app`; of `bento`, BentoML's own application, only the lifespan is used.

        `strict` refuses fields that would be ignored; `hosts` are the server's public names.
        """
        self.app = app
        self.bento = bento
        self.strict = strict
        self._hosts = hosts
        self.admission = Admission(app.limits)
        self.held = Held(app.body_memory_bytes, app.role)
        self.metrics = telemetry.RoleMetrics(app.role)
        self.metrics.watch(self.admission)
        self.open_sockets = 0
        self.route = Routes(app.handlers).find

    def readiness(self) -> Readiness:
        """Return whether the role can answer now."""
        if Draining.begun:
            return _DRAINING
        unloading = self.app.unloading
        return _IDLE if unloading and unloading.unloaded else self.app.readiness()

    async def loaded(self) -> None:
        """Return once the engine is loaded, if it was idle; the caller holds a slot."""
        if self.app.unloading:
            await self.app.unloading.loaded(self.app.limits.deadline_s)

    def is_busy(self) -> bool:
        """Return whether the engine has work, is on its way, or failed."""
        busy = self.admission.in_use or self.admission.waiting or self.open_sockets
        return bool(busy) or not self.app.readiness().can_answer

    def check(self, scope: Scope) -> None:
        """Let a request or a WebSocket pass, or raise because its sender may not call the role."""
        self.app.callers.check(scope, self._hosts)
        if self.app.guard is not None:
            self.app.guard(scope)

    async def health(self, path: str) -> tuple[int, bytes, bytes] | None:
        """Answer a health or metrics path with status, content type and body; None for others."""
        body: dict[str, object]
        if path in ALIVE:
            told = self.app.readiness().status
            status, body = 500 if told == "failed" else 200, {"status": told}
        elif path in READY:
            readiness = self.readiness()
            status = 200 if readiness.can_answer else 503
            body = {"status": readiness.status, "role": self.app.role, "detail": readiness.detail}
        elif path == METRICS:
            return 200, telemetry.CONTENT_TYPE.encode(), await self.app.metrics()
        else:
            return None
        return status, b"application/json", json.dumps(body).encode()


def _pattern(template: str) -> re.Pattern[str]:
    escaped = re.escape(template).replace(r"\{\}", "[^/]+").replace(r"\{\*\}", ".+")
    return re.compile(escaped + r"\Z")


class Visit(ABC):
    """A request or a WebSocket; entered when it arrives, and left when it ends."""

    def __init__(self, shell: Serving, scope: Scope, receive: Receive, send: Send) -> None:
        self.shell = shell
        self.scope = scope
        given = header(scope, b"x-request-id")
        repeatable = _SAFE_ID.fullmatch(given) is not None
        self.request_id = given if repeatable else b"req_" + os.urandom(16).hex().encode()
        self._receive = receive
        self._send = send
        self._label = "other"  # the path's template, once it is known
        self._began = time.perf_counter()
        self._first_byte: float | None = None
        self._status = 0

    async def run(self) -> None:
        """Serve it to its end; never raises, except when cancelled."""
        with self, suppress(ClientGoneError):
            try:
                await self._serve()
            except ClientGoneError:
                raise
            except ServiceError as error:
                await self._refuse(error)
            except Exception:
                method = self.scope.get("method", "WebSocket")
                log.exception("request failed: %s %r", method, self.scope["path"])
                await self._refuse(ServiceError(INTERNAL_MESSAGE, code="internal_error"))

    @abstractmethod
    async def _serve(self) -> None: ...

    @abstractmethod
    async def _refuse(self, error: ServiceError) -> None: ...

    def __enter__(self) -> None:
        self._token = telemetry.request_id_var.set(self.request_id)
        self._ignored = reading.watch(strict=self.shell.strict)

    def __exit__(self, *_: object) -> None:
        total_s = time.perf_counter() - self._began
        first_byte_s = None if self._first_byte is None else self._first_byte - self._began
        status = self._status or _GONE
        self.shell.metrics.observe(self._label, status, total_s, first_byte_s)
        if access_log.isEnabledFor(logging.INFO) and self._label not in _QUIET:
            method = self.scope.get("method", "WS")
            path = self.scope.get("raw_path", b"-").decode("ascii", "replace")
            access_log.info("%s %s %d %.1fms", method, path, status, total_s * 1000)
        telemetry.request_id_var.reset(self._token)
