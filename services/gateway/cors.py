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
    """Return the layer around the shell that allows `origins`; None if there are none.

    It answers preflights itself, since browsers send no key with them. Cookies are not allowed: the
    key is a header. With this layer, answers no longer go straight to the transport, but piece by
    piece through its `send`.
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
