"""Which pages in browsers may call a server, and by which names it may be called.

A browser lets any page send a form or open a WebSocket to any server; it only keeps the page from
reading the answer. So requests from pages of another origin are refused if they could change
something. A page may also point its own host name at a server that only its reader can reach (DNS
rebinding), and then has the same origin. So a server without keys answers only to IP addresses, to
names that nobody can register, and to those in `BENTOVOX_HOSTS`.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Scope

from services.errors import PermissionDeniedError
from services.openai.body import header

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})  # RFC 9110, section 9.2.1
_PRIVATE: Final = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".svc")
_ANY: Final = "*"
_SHOWN_CHARACTERS: Final = 128
_EXPOSED: Final = (
    "openai-processing-ms",
    "retry-after",
    "retry-after-ms",
    "x-audio-lost-seconds",
    "x-ignored-fields",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-request-id",
)


@dataclass(frozen=True)
class Callers:
    """Who may call a role.

    Where it is `keyed`, a key is required, which no page has by itself. Then neither origin nor
    name matters, except that WebSockets are always checked for their page's origin.
    """

    origins: tuple[str, ...] = ()  # of pages, besides the server's own; `*` lets all in
    keyed: bool = False

    def around(self, app: ASGIApp) -> ASGIApp:
        """Return `app` in the layer that lets pages of `origins`, if any, read its answers.

        It answers preflights itself, since browsers send no key with them. Cookies are not allowed:
        the key is a header. With this layer, answers no longer go straight to the transport, but
        piece by piece through its `send`.
        """
        if not self.origins:
            return app
        return CORSMiddleware(
            app,
            allow_origins=self.origins,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )

    def check(self, scope: Scope, hosts: Sequence[str]) -> None:
        """Let a request or a WebSocket pass; `hosts` are the public names of the server.

        PermissionDeniedError for a page of another origin (`origin_not_allowed`), or an unknown
        name of the server (`host_not_allowed`).
        """
        is_socket = scope["type"] == "websocket"
        if self.keyed and not is_socket:
            return
        host, origin = header(scope, b"host"), header(scope, b"origin")
        if not self.keyed and host and not _is_known(host, tuple(hosts)):
            raise PermissionDeniedError(
                f"This server is not known as {_shown(host)!r}. It asks for no key, so its "
                "operator has to name in BENTOVOX_HOSTS what it may be called, or set API keys.",
                code="host_not_allowed",
            )
        own = origin.partition(b"://")[2].lower() == host.lower()
        shown = _shown(origin)
        if not origin or own or shown in self.origins or _ANY in self.origins:
            return
        if is_socket or scope["method"] not in _SAFE:
            raise PermissionDeniedError(
                f"Pages of {shown!r} may not call this server; its operator can allow them in "
                "BENTOVOX_GATEWAY__CORS_ORIGINS.",
                code="origin_not_allowed",
            )


@lru_cache(maxsize=256)
def _is_known(host: bytes, hosts: tuple[str, ...]) -> bool:
    """Return whether a Host header names an address, a private name, or one of `hosts`."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        name = text[1:].partition("]")[0]
    else:
        name = text.partition(":")[0].rstrip(".")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        known = {socket.gethostname().lower(), *(one.lower() for one in hosts)}
        private = "." not in name or f".{name}".endswith(_PRIVATE)
        return private or name in known or _ANY in known
    return True


def _shown(value: bytes) -> str:
    return value[:_SHOWN_CHARACTERS].decode("latin-1")
