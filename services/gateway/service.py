"""The gateway before backends elsewhere: `bentoml serve services.gateway.service:Gateway`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import bentoml

from services.errors import ConfigurationError
from services.gateway import app
from services.gateway.keys import Keys
from services.gateway.upstream import Address
from services.role import preflight, role
from services.settings import settings

if TYPE_CHECKING:
    from services.shell import RoleApp


def _check_backends() -> str:
    gateway = settings().gateway
    if not gateway.chat and not gateway.speech:
        raise ConfigurationError(
            "the gateway alone has no backends; set BENTOVOX_GATEWAY__CHAT or "
            'BENTOVOX_GATEWAY__SPEECH to a list of URLs such as ["http://chat:3000"], or serve '
            "services.stack:Stack, which starts them too."
        )
    for url in [*gateway.chat, *gateway.speech]:
        Address.parse(url)
    return f"the gateway stands before {', '.join([*gateway.chat, *gateway.speech])}"


class _Gateway:
    """One front door before chat and speech that run elsewhere."""

    @staticmethod
    def build() -> RoleApp:
        gateway = settings().gateway
        return app.build(gateway, {"chat": gateway.chat, "speech": gateway.speech})

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        preflight(_check_backends, lambda: Keys.from_settings(settings().gateway).summary())


Gateway = role(_Gateway, name="gateway")
