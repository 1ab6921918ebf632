"""The gateway's application: its paths, who answers each, and who may call them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.backends.pools import Pools
from services.gateway import cors
from services.gateway.keys import Keys, has_key_in_body, key_of
from services.gateway.proxy import Proxy
from services.gateway.tunnel import Tunnel
from services.openai import openapi, sockets
from services.openai.documents import by_route, document, of_models
from services.openai.paths import METHODS, OPENAPI, ROUTES
from services.server import telemetry
from services.server.admission import Limits
from services.server.origins import Callers
from services.server.serving import Readiness, RoleApp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from services.settings.sections import GatewaySettings

SOCKETS = {"speech": sockets.SPEECH, "transcription": sockets.TRANSCRIPTION}
"""The WebSocket paths of each role that the gateway forwards."""


def build(gateway: GatewaySettings, backends: Mapping[str, Sequence[str]]) -> RoleApp:
    """Return the gateway in front of `backends`, the URLs of each role."""
    pools = Pools(backends, gateway)
    roles = {path: role for role in pools.by_role for path in ROUTES[role]}
    tunnels = {
        path: role for role, paths in SOCKETS.items() if role in pools.by_role for path in paths
    }
    tunnel = Tunnel(pools, tunnels)
    keys = Keys.from_settings(gateway)
    described = openapi.document(pools.by_role)

    def guard(scope: Any) -> None:
        if scope["path"] != OPENAPI and not has_key_in_body(scope):
            keys.check(key_of(scope))

    async def metrics() -> bytes:
        return telemetry.merge(telemetry.render(), await pools.metrics())

    proxied = [(method, path) for path in roles for method in METHODS[path]]
    handlers = of_models(pools.models)
    handlers["GET", OPENAPI] = document(lambda _: described)
    handlers |= dict.fromkeys(proxied, Proxy(pools, roles, keys, gateway))
    return RoleApp(
        role="gateway",
        asgi=by_route(handlers),
        paths={path: METHODS[path] for _, path in handlers},
        sockets=dict.fromkeys(tunnels, tunnel),
        admitted=frozenset(path for path in roles if "POST" in METHODS[path]),
        limits=Limits(gateway.slots, gateway.queue, gateway.deadline_s),
        body_limit_bytes=gateway.body_limit_bytes,
        body_memory_bytes=gateway.body_memory_bytes,
        readiness=lambda: Readiness(*pools.status()),
        lifespan=pools.probing,
        callers=Callers(tuple(gateway.cors_origins), keyed=bool(keys)),
        guard=guard,
        metrics=metrics,
        outer=cors.allowing(gateway.cors_origins),
    )
