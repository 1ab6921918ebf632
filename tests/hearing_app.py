"""The transcription role's routes with a client, and recordings to send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from services.audio.encode import Encoder, to_wav
from services.openai.models import Models
from services.settings.sections import TRANSCRIPTION_MODELS, TranscriptionSettings
from services.transcription.engines.protocol import SAMPLE_RATE_HZ
from services.transcription.realtime import RealtimeSocket
from services.transcription.routes import handlers_of
from tests.speech_app import by_route, shelled

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.audio.formats import AudioFormat
    from services.audio.pcm import Samples
    from services.openai.answers import Handlers
    from tests.fakes.transcription_engine import FakeEngine


def untold(_seconds: float) -> None:
    """Do nothing."""


def models_of(engine: Any) -> Models:
    """Return the names that a role with this engine answers to by default."""
    return Models((*engine.models, *TRANSCRIPTION_MODELS), role="transcription")


def hearing_handlers(
    engine: Any, on_audio_seconds: Callable[[float], None] = untold, **rules: Any
) -> Handlers:
    """Return the table of the transcription role before an engine."""
    settings = TranscriptionSettings(**rules)
    return handlers_of(engine, models_of(engine), settings, on_audio_seconds)


def hearing_app(
    engine: Any, on_audio_seconds: Callable[[float], None] = untold, **rules: Any
) -> Callable[..., Any]:
    """Return the transcription role's routes before an engine."""
    return by_route(hearing_handlers(engine, on_audio_seconds, **rules))


def live_socket(engine: Any, on_audio_seconds: Callable[[float], None] = untold) -> RealtimeSocket:
    """Return the transcription role's WebSocket before an engine."""
    return RealtimeSocket(engine, models_of(engine), on_audio_seconds)


class Hearing:
    """An engine behind the routes, and a client."""

    def __init__(self, engine: FakeEngine, **rules: Any) -> None:
        self.engine = engine
        self.seconds: list[float] = []
        app = hearing_app(engine, self.seconds.append, **rules)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=shelled(app)), base_url="http://test"
        )

    async def post(
        self, data: bytes, path: str = "transcriptions", **fields: Any
    ) -> httpx.Response:
        """Send a file; a list is sent as many fields with `[]` behind the name, as the SDK does."""
        return await self.client.post(
            f"/v1/audio/{path}", files=[("file", ("a.wav", data, "audio/wav")), *parts(fields)]
        )


def parts(fields: dict[str, Any]) -> list[tuple[str, tuple[None, str]]]:
    """Return a form's fields, with whisper-1 as the model unless another is named."""
    found = []
    for name, value in {"model": "whisper-1", **fields}.items():
        if isinstance(value, list):
            found += [(f"{name}[]", (None, str(one))) for one in value]
        elif value is not None:
            found.append((name, (None, str(value))))
    return found


def said(text: str, sample_rate_hz: int = SAMPLE_RATE_HZ) -> Samples:
    """Return what the fake engines speak and hear: a tone a character; `|` is 0.1 s of silence."""
    time_s = np.arange(sample_rate_hz // 10) / sample_rate_hz
    tones = [
        np.sin(2 * np.pi * (200 + 10 * (ord(one) % 64)) * time_s) * (one != "|") for one in text
    ]
    return (0.5 * np.concatenate(tones)).astype(np.float32)


def recording(text: str, audio_format: AudioFormat | None = None) -> bytes:
    """Return `said` as a file, wav unless another format is named."""
    if audio_format is None:
        return to_wav(said(text), SAMPLE_RATE_HZ)
    encoder = Encoder(audio_format, 24_000)
    return encoder.feed(said(text, 24_000)) + encoder.finish()
