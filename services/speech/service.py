"""The speech role's service: `bentoml serve services.speech.service:Speech`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from services.engines import create
from services.openai.models import Models
from services.openai.paths import SPEECH_STREAM
from services.server import telemetry
from services.server.admission import Limits
from services.server.idle import Unloading
from services.server.role import role
from services.server.serving import Readiness, RoleApp
from services.settings import provenance, settings
from services.settings.sections import SpeechSettings
from services.speech import routes
from services.speech.engines.protocol import SpeechEngine
from services.speech.socket import SpeechSocket
from services.speech.speakers import BuiltInVoices, Speakers, check_aliases
from services.speech.voices import VoiceStore

log = logging.getLogger("bentovox.speech")

_KOKORO: Final = "made by Kokoro-82M (Apache-2.0)"


def _engine(speech: SpeechSettings) -> SpeechEngine:
    engine: SpeechEngine = create("speech", speech.engine, **speech.options)
    check_aliases(engine, speech.voices)
    return engine


def _chosen() -> str:
    name = _engine(settings().speech).name
    return f"speech is {name} ({provenance('speech.engine')})"


def _status(engine: SpeechEngine) -> str:
    if engine.ready:
        return "degraded" if engine.lack else "ready"
    return "unavailable" if engine.lack and not engine.loading else "starting"


def build() -> RoleApp:
    """Return text to speech behind OpenAI's audio API."""
    speech = settings().speech
    engine = _engine(speech)
    store = VoiceStore(Path(speech.store).expanduser())
    built_in = BuiltInVoices(
        lambda: create("speech", "kokoro", **dict(speech.kokoro)), _KOKORO, store, speech.voices
    )
    speakers = Speakers(engine, store, speech.voices, speech.ref_audio, built_in)
    models = Models((*engine.models, *speech.models), role="speech")

    def count(seconds: float, format_: str) -> None:
        telemetry.AUDIO_SECONDS.labels("speech", format_).inc(seconds)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        await engine.start()
        log.info("ready: %s, %d voices", engine.lack or engine.name, len(engine.voices()))
        making = asyncio.create_task(built_in.make(engine))
        try:
            yield
        finally:
            making.cancel()
            await engine.close()

    def readiness() -> Readiness:
        return Readiness(_status(engine), {"engine": engine.lack or engine.name})

    return RoleApp(
        role="speech",
        handlers=routes.handlers_of(speakers, models, count),
        sockets={SPEECH_STREAM: SpeechSocket(speakers, models, count)},
        limits=Limits(speech.slots, speech.queue, speech.deadline_s, lambda: engine.streams),
        body_limit_bytes=speech.body_limit_bytes,
        body_memory_bytes=speech.body_memory_bytes,
        readiness=readiness,
        lifespan=lifespan,
        unloading=Unloading(engine, speech.idle_s, lambda: engine.loading),
    )


Speech = role("speech", build, _chosen)
