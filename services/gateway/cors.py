"""Cross-origin requests: which pages may call this server from a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.middleware.cors import CORSMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.server.serving import Asgi

_EXPOSED = (
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
