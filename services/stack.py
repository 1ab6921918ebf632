"""The whole stack for one machine: `bentoml serve services.stack:Stack`.

The gateway with chat and speech behind it, each in a process of its own. A role whose URLs are in
the settings (`BENTOVOX_GATEWAY__CHAT`) is reached there; the one started here is then left idle,
so serve `services.gateway.service:Gateway` where every role runs elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import bentoml

from services.chat.service import Chat
from services.gateway import app
from services.gateway.keys import Keys
from services.role import preflight, role
from services.settings import settings
from services.speech.service import Speech

if TYPE_CHECKING:
    from services.shell import RoleApp


class _Stack:
    """Chat and speech behind one OpenAI-compatible front door."""

    chat = bentoml.depends(Chat)
    speech = bentoml.depends(Speech)

    @staticmethod
    def build() -> RoleApp:
        gateway = settings().gateway
        return app.build(
            gateway,
            {"chat": gateway.chat or [Chat.url], "speech": gateway.speech or [Speech.url]},
        )

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        preflight(lambda: Keys.from_settings(settings().gateway).summary())


Stack = role(_Stack, name="bentovox")
