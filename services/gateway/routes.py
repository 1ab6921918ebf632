"""The gateway's application: its paths, who answers each, and who may call them."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from services.backends.pools import Pools
from services.gateway.client_secrets import KINDS, PREFIX, ClientSecrets
from services.gateway.keys import Keys, has_key_in_body, key_of
from services.gateway.proxy import Proxy
from services.gateway.tunnel import Tunnel
from services.openai import openapi
from services.openai.documents import document, of_models
from services.openai.paths import CLIENT_SECRETS, OPENAPI, ROUTES, SOCKETS
from services.server import telemetry
from services.server.admission import Limits
from services.server.origins import Callers
from services.server.serving import Readiness, RoleApp
from services.settings import settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from services.settings.sections import GatewaySettings


def who_is_let_in() -> str:
    """Return a line about the API keys of the settings in force.

    Raises:
        ConfigurationError: they cannot be read.
    """
    return Keys.from_settings(settings().gateway).summary()


def build(gateway: GatewaySettings, backends: Mapping[str, Sequence[str]]) -> RoleApp:
    """Return the gateway in front of `backends`, the URLs of each role."""
    pools = Pools(backends, gateway, gateway.affinity_ahead)
    keys = Keys.from_settings(gateway)
    routes = {route: pool for role, pool in pools.by_role.items() for route in ROUTES[role]}
    proxy = Proxy({path: pool for (_, path), pool in routes.items()}, keys, gateway)
    tunnel = Tunnel(pools.by_role)
    sockets = [
        path for path, roles in SOCKETS.items() if not pools.by_role.keys().isdisjoint(roles)
    ]
    described = openapi.document(pools.by_role)
    secrets = ClientSecrets(keys.signing_key())

    def guard(scope: Any) -> None:
        if scope["path"] == OPENAPI or has_key_in_body(scope):
            return
        key = key_of(scope)
        is_realtime = scope["type"] == "websocket" and scope["path"] in KINDS
        if is_realtime and key is not None and key.startswith(PREFIX):
            scope["bentovox.session"] = secrets.session(key, scope["path"])
        else:
            keys.check(key)

    async def metrics() -> bytes:
        told = await pools.metrics()
        # Of many backends it takes seconds.
        return await asyncio.to_thread(telemetry.merge, telemetry.render(), told)

    handlers = of_models(pools.models)
    for path in KINDS:
        handlers["POST", f"{path}/{CLIENT_SECRETS}"] = document(partial(secrets.create, path))
    handlers["GET", OPENAPI] = document(lambda _: described)
    handlers |= dict.fromkeys(routes, proxy)
    return RoleApp(
        role="gateway",
        handlers=handlers,
        sockets=dict.fromkeys(sockets, tunnel),
        limits=Limits(gateway.slots, gateway.queue, gateway.deadline_s),
        body_limit_bytes=gateway.body_limit_bytes,
        body_memory_bytes=gateway.body_memory_bytes,
        readiness=lambda: Readiness(*pools.status()),
        lifespan=pools.probing,
        callers=Callers(tuple(gateway.cors_origins), keyed=bool(keys)),
        guard=guard,
        metrics=metrics,
    )
