"""What a request and a WebSocket have in common: an id, and an end that is counted and logged."""

from __future__ import annotations

import logging
import os
import re
import time
from typing import TYPE_CHECKING, Final

from services.openai import reading
from services.server.logging import request_id_var
from services.server.serving import ALIVE, METRICS, READY

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from services.server.serving import Serving

access_log = logging.getLogger("bentovox.access")

_SAFE_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_QUIET: Final = ALIVE | READY | {METRICS}
_GONE: Final = 499
"""nginx's status for a client that hung up before there was an answer."""


class Visit:
    """A request or a WebSocket; entered when it arrives, and left when it ends."""

    def __init__(self, shell: Serving, scope: Scope, receive: Receive, send: Send) -> None:
        self.shell = shell
        self.scope = scope
        self.request_id = _request_id(scope)
        self._receive = receive
        self._send = send
        self._label = "other"  # the path's template, once it is known
        self._began = time.perf_counter()
        self._first_byte: float | None = None
        self._status = 0

    def __enter__(self) -> None:
        self._token = request_id_var.set(self.request_id)
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
        request_id_var.reset(self._token)


def _request_id(scope: Scope) -> bytes:
    """Return the client's `x-request-id` if it is safe to repeat, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SAFE_ID.fullmatch(value):
            return bytes(value)
    return b"req_" + os.urandom(16).hex().encode()
