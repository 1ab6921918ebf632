"""The transcription role's service: `bentoml serve services.transcription.service:Transcription`.

The service starts without its model, which is fetched and loaded in the background; `/readyz` says
how far that is, or how to get one, and who hears meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.engines import create
from services.openai.models import Models
from services.openai.paths import REALTIME
from services.server import telemetry
from services.server.admission import Limits
from services.server.idle import Unloading
from services.server.role import role
from services.server.serving import Readiness, RoleApp
from services.settings import provenance, settings
from services.transcription import routes
from services.transcription.engines.protocol import TranscriptionEngine
from services.transcription.engines.stand_in import with_stand_in
from services.transcription.realtime import RealtimeSocket


def _engine() -> TranscriptionEngine:
    transcription = settings().transcription
    engine: TranscriptionEngine = create(
        "transcription", transcription.engine, **transcription.options
    )
    return with_stand_in(engine, transcription.stand_in)


def _chosen() -> str:
    engine = _engine()
    model = settings().transcription.options.get("model")
    if model is None:
        return f"transcription is {engine.name} ({provenance('transcription.engine')})"
    source = provenance(f"transcription.{engine.name}.model")
    return f"transcription is {engine.name} with {model} ({source})"


def _status(engine: TranscriptionEngine) -> str:
    if engine.ready:
        return "ready" if engine.status == "ready" else "degraded"
    return "unavailable" if engine.settled else "starting"


def build() -> RoleApp:
    """Return speech to text behind OpenAI's audio API."""
    transcription = settings().transcription
    engine = _engine()
    count = telemetry.HEARD_SECONDS.labels("transcription").inc
    models = Models((*engine.models, *transcription.models), role="transcription")

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        await engine.start()
        try:
            yield
        finally:
            await engine.close()

    return RoleApp(
        role="transcription",
        handlers=routes.handlers_of(engine, models, transcription, count),
        sockets={REALTIME: RealtimeSocket(engine, models, count)},
        limits=Limits(transcription.slots, transcription.queue, transcription.deadline_s),
        body_limit_bytes=transcription.body_limit_bytes,
        body_memory_bytes=transcription.body_memory_bytes,
        readiness=lambda: Readiness(_status(engine), {"engine": engine.status}),
        lifespan=lifespan,
        unloading=Unloading(
            engine,
            transcription.idle_s,
            lambda: not (engine.status == "ready" or engine.settled),
        ),
    )


Transcription = role("transcription", build, _chosen)
