"""The speech role's routes with a client, and requests to send."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from services.audio.encode import to_wav
from services.errors import ServiceError
from services.openai.body import ClientGoneError
from services.openai.errors import error_response
from services.openai.models import Models
from services.openai.paths import MODELS, ROUTES
from services.server.serving import Routes
from services.settings.sections import SPEECH_MODELS
from services.speech.routes import handlers_of
from services.speech.speakers import Speakers
from services.speech.voices import VoiceStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.audio.formats import OnAudioSeconds
    from services.openai.answers import Handlers
    from tests.fakes.speech_engine import FakeEngine

_ROUTES = Routes([*ROUTES["speech"], *ROUTES["transcription"], *MODELS])

BODY = {"model": "tts-1", "input": "hello there", "voice": "alloy"}


def speakers_of(engine: Any, store: VoiceStore | None = None, **rules: Any) -> Speakers:
    """Return an engine's speakers, with an empty store where none is given."""
    empty = VoiceStore(Path("/nonexistent/voices"))
    return Speakers(engine, store or empty, **{"aliases": {}, "ref_audio": "consent", **rules})


def models_of(engine: Any) -> Models:
    """Return the names that a role with this engine answers to by default."""
    return Models((*engine.models, *SPEECH_MODELS), role="speech")


def untold(_seconds: float, _format: str) -> None:
    """Do nothing."""


def app_of(
    engine: Any,
    store: VoiceStore | None = None,
    on_audio_seconds: OnAudioSeconds = untold,
    **rules: Any,
) -> Callable[..., Any]:
    """Return the speech role's routes before an engine."""
    speakers = speakers_of(engine, store, **rules)
    return by_route(handlers_of(speakers, models_of(engine), on_audio_seconds))


def by_route(handlers: Handlers) -> Callable[..., Any]:
    """Return the application that calls the handler of a request's method and route."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        await handlers[method, scope["bentovox.route"]](scope, receive, send)

    return app


def shelled(app: Callable[..., Any]) -> Callable[..., Any]:
    """Find the route and turn refusals into HTTP as the shell does, and nothing else."""

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        started = False

        async def noting(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            route = _ROUTES.find(scope["method"], scope["path"])
            await app({**scope, "bentovox.route": route}, receive, noting)
        except ClientGoneError:
            return
        except ServiceError as error:
            if started:
                raise
            status, headers, body = error_response(error)
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    return asgi


def ready(app: Callable[..., Any]) -> Callable[..., Any]:
    """Answer /readyz as a role does that can answer."""

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/readyz":
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"status": "ready"}'})

    return asgi


class Served:
    """An engine behind the routes, and a client."""

    def __init__(self, engine: FakeEngine, store: VoiceStore | None = None, **rules: Any) -> None:
        self.engine = engine
        self.seconds: list[tuple[float, str]] = []
        self.app = app_of(engine, store, lambda s, f: self.seconds.append((s, f)), **rules)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=shelled(self.app)), base_url="http://test"
        )

    async def speech(self, **fields: Any) -> httpx.Response:
        return await self.client.post("/v1/audio/speech", json={**BODY, **fields})

    async def form(self, path: str, files: dict[str, bytes], **texts: Any) -> httpx.Response:
        parts: list[Any] = [(name, (None, str(text))) for name, text in texts.items()]
        parts += [(name, ("a.wav", data, "audio/wav")) for name, data in files.items()]
        return await self.client.post(path, files=parts)

    async def consent(self, **texts: Any) -> httpx.Response:
        fields = {"name": "Anna's", "language": "en-GB", **texts}
        return await self.form("/v1/audio/voice_consents", {"recording": RECORDING}, **fields)

    async def register(self, **texts: Any) -> httpx.Response:
        """Register a voice with a consent of its own, unless another is named."""
        if "consent" not in texts:
            texts["consent"] = (await self.consent()).json()["id"]
        fields = {"name": "Anna", **texts}
        return await self.form("/v1/audio/voices", {"audio_sample": RECORDING}, **fields)


def without(engine: FakeEngine, *capabilities: str) -> FakeEngine:
    """Take capabilities from an engine."""
    engine.capabilities = engine.capabilities - set(capabilities)  # type: ignore[misc]
    return engine


def fault(response: httpx.Response) -> tuple[int, str | None, str | None]:
    """Return an error's status, param and code, from OpenAI's shape."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error["param"], error["code"]


def recording(seconds: float, sample_rate_hz: int = 24_000, level: float = 0.3) -> bytes:
    """Return a wav file of a tone."""
    time_s = np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz
    tone = (level * np.sin(2 * np.pi * 220 * time_s)).astype(np.float32)
    return to_wav(tone, sample_rate_hz)


RECORDING = recording(2.0)
