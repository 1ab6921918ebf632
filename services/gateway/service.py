"""The gateway without the other roles: `bentoml serve services.gateway.service:Gateway`."""

from __future__ import annotations

from services.backends.sources import source_of
from services.errors import ConfigurationError
from services.gateway import routes
from services.server.role import role
from services.server.serving import RoleApp
from services.settings import settings


def _check_backends() -> str:
    urls = [url for given in settings().gateway.backends.values() for url in given]
    if not urls:
        raise ConfigurationError(
            "the gateway alone has no backends; set BENTOVOX_GATEWAY__CHAT, "
            "BENTOVOX_GATEWAY__SPEECH, BENTOVOX_GATEWAY__TRANSCRIPTION or "
            "BENTOVOX_GATEWAY__CONVERSATION to a list of URLs such as "
            '["http://chat:3000"], or serve services.stack:Stack, which starts them too.'
        )
    for url in urls:
        source_of(url)
    return f"the gateway forwards to {', '.join(urls)}"


def build() -> RoleApp:
    """Return one front door to roles that run elsewhere."""
    gateway = settings().gateway
    return routes.build(gateway, gateway.backends)


Gateway = role("gateway", build, _check_backends, routes.who_is_let_in)
