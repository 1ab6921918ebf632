"""Cross-origin requests: which pages may call this server from a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.middleware.cors import CORSMiddleware

from services.errors import PermissionDeniedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.shell import Asgi

_EXPOSED = (
    "openai-processing-ms",
    "retry-after",
    "retry-after-ms",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-request-id",
)


def allowing(origins: Sequence[str]) -> Callable[[Asgi], Asgi] | None:
    """Return what lets `origins` in, to be put around the shell; None where there are none.

    It answers a preflight itself, since a browser sends none of the page's headers with it, the key
    included. Cookies are never asked for: the key is a header. An answer then goes through this
    layer's `send`, piece by piece, where it would otherwise go straight to the transport.
    """
    if not origins:
        return None

    def around(app: Asgi) -> Asgi:
        return CORSMiddleware(
            app,
            allow_origins=list(origins),
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )

    return around


def check_origin(scope: Any, origins: Sequence[str]) -> None:
    """Let a WebSocket pass that no page opened, or one of `origins` or of this server.

    No browser keeps a page from a WebSocket of another server, as CORS keeps it from HTTP; without
    this any page could use a server on its reader's machine.

    Raises:
        PermissionDeniedError: another page (`origin_not_allowed`).
    """
    headers = dict(scope["headers"])
    given: bytes | None = headers.get(b"origin")
    if given is None or "*" in origins:
        return
    origin = given.decode("latin-1")
    if origin in origins or origin.partition("://")[2].encode() == headers.get(b"host"):
        return
    raise PermissionDeniedError(
        f"Pages of {origin!r} may not call this server; its operator can allow them in "
        "BENTOVOX_GATEWAY__CORS_ORIGINS.",
        code="origin_not_allowed",
    )
