"""The gateway's application: its paths, who answers each, and who may call them.

One is the playground, a page in the folder `playground`. Its files refer to each other and to the
API by relative URLs, so that it also works where a proxy serves the gateway under a path.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from services.backends.pools import Pools
from services.gateway.keys import KINDS, Keys
from services.gateway.proxy import Proxy
from services.gateway.tunnel import Tunnel
from services.openai import openapi
from services.openai.answers import Handlers, document, of_models
from services.openai.body import header
from services.openai.paths import CLIENT_SECRETS, OPENAPI, ROUTES, SOCKETS
from services.server import telemetry
from services.server.admission import Limits
from services.server.origins import Callers
from services.server.serving import Readiness, RoleApp, no_such_path
from services.settings import settings
from services.settings.sections import GatewaySettings

PAGE: Final = "/playground"
_OBJECTS: Final = 20_000  # more of them than before, and the garbage collector looks
_FILES: Final = f"{PAGE}/{{}}"
_FOLDER: Final = Path(__file__).with_name("playground")
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Everything comes from here, and nothing is inline; blobs are sounds that were made in the page.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "cache-control": "no-cache",  # asked again each time, and then 304
    "content-security-policy": _POLICY,
    "permissions-policy": "microphone=(self)",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def who_is_let_in() -> str:
    """Return a line about the API keys of the settings in force."""
    known = len(Keys.from_settings(settings().gateway))
    if not known:
        return "no API keys are set: whoever reaches the port is let in"
    return f"API keys are required; {known} are known"


def build(gateway: GatewaySettings, backends: Mapping[str, Sequence[str]]) -> RoleApp:
    """Return the gateway in front of `backends`, the URLs of each role."""
    # Hardly any object of a request is part of a cycle: Python's 700 cost a tenth of a request.
    gc.set_threshold(_OBJECTS)
    pools = Pools(backends, gateway, gateway.affinity_ahead)
    keys = Keys.from_settings(gateway)
    routes = {route: pool for role, pool in pools.by_role.items() for route in ROUTES[role]}
    proxy = Proxy({path: pool for (_, path), pool in routes.items()}, keys, gateway)
    tunnel = Tunnel(pools.by_role)
    sockets = [
        path for path, roles in SOCKETS.items() if not pools.by_role.keys().isdisjoint(roles)
    ]
    described = openapi.document(pools.by_role)
    page = playground() if gateway.playground else {}
    keyless = {OPENAPI, *(path for _, path in page)}

    async def metrics() -> bytes:
        told = await pools.metrics()
        # Of many backends it takes seconds.
        return await asyncio.to_thread(telemetry.merge, telemetry.render(), told)

    handlers = of_models(pools.models)
    for path in KINDS:
        handlers["POST", f"{path}/{CLIENT_SECRETS}"] = document(partial(keys.secret, path))
    handlers["GET", OPENAPI] = document(lambda _: described)
    handlers |= dict.fromkeys(routes, proxy) | page
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
        guard=partial(keys.let_in, keyless=keyless),
        metrics=metrics,
    )


def playground() -> Handlers:
    """Return what serves the page, from memory; 65 KB."""
    files: dict[str, tuple[bytes, str]] = {}
    for path in _FOLDER.iterdir():
        body = path.read_bytes()
        files[path.name] = body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'

    async def file(scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"].removeprefix(PAGE)[1:]
        if not name and (scope["path"] != PAGE or not scope["bentovox.slash"]):
            await RedirectResponse("playground/")(scope, receive, send)
            return
        name = name or "index.html"
        if name not in files:
            raise no_such_path(scope["method"], scope["path"])
        body, tag = files[name]
        headers = {**_HEADERS, "etag": tag}
        answer = Response(body, headers=headers, media_type=_TYPES[Path(name).suffix])
        # A proxy that compresses makes the tag weak: W/"…"
        if tag in header(scope, b"if-none-match").decode("latin-1"):
            answer = Response(status_code=304, headers=headers)
        await answer(scope, receive, send)

    return {("GET", "/"): file, ("GET", PAGE): file, ("GET", _FILES): file}
