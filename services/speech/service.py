"""The speech role's service: `bentoml serve services.speech.service:Speech`."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import bentoml

from services import telemetry
from services.role import preflight, role
from services.settings import provenance, settings
from services.shell import Readiness, RoleApp
from services.speech import routes
from services.speech.engines.registry import create_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.settings import SpeechSettings
    from services.speech.engines.protocol import SpeechEngine


log = logging.getLogger("bentovox.speech")


def _engine(speech: SpeechSettings) -> SpeechEngine:
    return create_engine(speech.engine, voices=speech.voices)


def _chosen() -> str:
    name = _engine(settings().speech).name
    return f"speech is {name} ({provenance('speech.engine')})"


class _Speech:
    """Text to speech behind OpenAI's audio API."""

    @staticmethod
    def build() -> RoleApp:
        speech = settings().speech
        engine = _engine(speech)
        metrics = telemetry.RoleMetrics("speech")

        @asynccontextmanager
        async def lifespan() -> AsyncIterator[None]:
            await engine.start()
            log.info("ready: %s, %d voices", engine.name, len(engine.voices()))
            try:
                yield
            finally:
                await engine.close()

        def readiness() -> Readiness:
            return Readiness("ready" if engine.ready else "starting", {"engine": engine.name})

        return RoleApp(
            role="speech",
            asgi=routes.build_app(
                engine, aliases=speech.models, on_audio_seconds=metrics.audio_seconds
            ),
            paths=routes.PATHS,
            admitted=frozenset({routes.SPEECH_PATH}),
            limits=speech.limits,
            body_limit_bytes=speech.body_limit_bytes,
            readiness=readiness,
            lifespan=lifespan,
        )

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        preflight(_chosen)


Speech = role(_Speech, name="speech")
