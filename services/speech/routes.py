"""The speech role's paths: audio/speech, audio/voices and models, as one ASGI application.

`build_app` answers; it raises `ServiceError` for what it refuses, and the shell around it turns
that into HTTP. A request is validated before the first byte, the first frame is made before the
headers leave, and what fails after that breaks the connection off.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

from services.audio.encode import open_encoder
from services.errors import (
    MethodNotAllowedError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
    UnsupportedMediaError,
)
from services.openai.paths import MODELS, SPEECH
from services.speech.engines.protocol import SynthesisRequest
from services.speech.schema import parse_speech_body
from services.speech.stream import AudioAnswer, ClientGoneError, until_hangup

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine

    from starlette.types import Receive, Scope, Send

    from services.speech.engines.protocol import SpeechEngine, Voice
    from services.speech.stream import OnAudioSeconds

    Handler = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]

OPENAI_MODELS: Final = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
"""OpenAI's model names, which any engine answers to, so that clients need not change."""

SPEECH_PATH: Final = "/v1/audio/speech"
PATHS: Final = {**SPEECH, **MODELS}
"""What the role serves."""

# 4096 characters twice, each at most 12 bytes as JSON's \uXXXX\uXXXX, and the rest.
_BODY_LIMIT_BYTES: Final = 128 * 1024


def build_app(
    engine: SpeechEngine,
    *,
    aliases: Collection[str] = OPENAI_MODELS,
    on_audio_seconds: OnAudioSeconds | None = None,
) -> Handler:
    """Return the ASGI application that serves `engine`; starting and closing it is the caller's.

    Args:
        engine: what speaks.
        aliases: model names it answers to beside its own.
        on_audio_seconds: told, once a request that made audio, how many seconds were made and in
            which format, also when the client hung up.
    """
    return _SpeechApp(engine, aliases, on_audio_seconds or (lambda _seconds, _format: None))


class _SpeechApp:
    """The paths of one engine."""

    def __init__(
        self, engine: SpeechEngine, aliases: Collection[str], on_audio_seconds: OnAudioSeconds
    ) -> None:
        self._engine = engine
        self._on_audio_seconds = on_audio_seconds
        self._models = tuple(dict.fromkeys((*engine.models, *aliases)))
        self._created = int(time.time())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path: str = scope["path"]
        if path == SPEECH_PATH:
            _allow(scope, "POST")
            await self._speech(scope, receive, send)
            return
        answer = self._document(path)
        _allow(scope, "GET")
        body = json.dumps(answer, ensure_ascii=False).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _speech(self, scope: Scope, receive: Receive, send: Send) -> None:
        _expect_json(scope)
        try:
            body = parse_speech_body(await _body(receive))
        except ClientGoneError:
            return
        self._check_model(body.model)
        request = SynthesisRequest(
            text=body.input,
            voice=body.voice_id,
            speed=body.speed,
            instructions=body.instructions or None,
            seed=body.seed,
            language=body.language,
        )
        self._engine.check(request)
        if not self._engine.ready:
            raise UnavailableError(
                f"the {self._engine.name} engine is not ready", retry_after_s=1.0
            )
        answer = AudioAnswer(
            engine=self._engine,
            request=request,
            encoder=open_encoder(body.response_format, self._engine.sample_rate_hz),
            audio_format=body.response_format,
            as_events=body.stream_format == "sse",
            on_audio_seconds=self._on_audio_seconds,
        )
        await until_hangup(receive, answer.send_to(send))

    def _check_model(self, model: str) -> None:
        if model not in self._models:
            raise NotFoundError(
                f"The model {model!r} does not exist; this service answers to "
                f"{', '.join(self._models)}.",
                param="model",
                code="model_not_found",
            )

    def _document(self, path: str) -> dict[str, Any]:
        if path == "/v1/models":
            return {"object": "list", "data": [self._model(name) for name in self._models]}
        if path.startswith("/v1/models/"):
            name = path.removeprefix("/v1/models/")
            self._check_model(name)
            return self._model(name)
        if path == "/v1/audio/voices":
            return self._voices()
        if path.startswith("/v1/audio/voices/"):
            return _voice(self._engine.voice(path.removeprefix("/v1/audio/voices/")))
        raise NotFoundError(f"no such path: {path}", code="unknown_url")

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "bentovox"}

    def _voices(self) -> dict[str, Any]:
        """Return a superset of what other servers answer.

        `data` is OpenAI's list shape; `voices` the plain names that Kokoro-FastAPI and vLLM-Omni
        send, with vLLM-Omni's `uploaded_voices` beside them.
        """
        voices = [_voice(voice) for voice in self._engine.voices()]
        names = [voice["id"] for voice in voices]
        return {
            "object": "list",
            "data": voices,
            "first_id": names[0] if names else None,
            "last_id": names[-1] if names else None,
            "has_more": False,
            "voices": names,
            "uploaded_voices": [],
        }


def _voice(voice: Voice) -> dict[str, Any]:
    return {
        "id": voice.id,
        "object": "voice",
        "name": voice.name,
        "languages": list(voice.languages),
        "language": voice.languages[0] if voice.languages else None,
        "gender": voice.gender,
        "alias_of": voice.alias_of,
    }


def _allow(scope: Scope, method: str) -> None:
    if scope["method"] != method and not (method == "GET" and scope["method"] == "HEAD"):
        raise MethodNotAllowedError(
            f"Method {scope['method']} is not allowed for {scope['path']}; use {method}."
        )


def _expect_json(scope: Scope) -> None:
    given = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    media_type = given.split(b";")[0].strip().lower()
    if media_type != b"application/json":
        raise UnsupportedMediaError(
            f"content-type {given.decode('latin-1')!r} is not read here; send application/json"
        )


async def _body(receive: Receive) -> bytes:
    """Return the whole request body.

    Raises:
        TooLargeError: it cannot be a valid request any more.
        ClientGoneError: the client hung up while sending it.
    """
    parts = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part: bytes = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > _BODY_LIMIT_BYTES:
            raise TooLargeError(
                f"the body is over {_BODY_LIMIT_BYTES} bytes, more than any valid request has"
            )
        if not message.get("more_body", False):
            return b"".join(parts)
