"""The transcription role's paths as one ASGI application: transcriptions, translations, models.

`build_app` answers; it raises `ServiceError` for what it refuses, and the shell around it turns
that into HTTP. What a request says is looked at before its recording is, and the first segment is
heard before headers leave.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.audio.decode import Decoding
from services.errors import InvalidRequestError
from services.openai.documents import send_json
from services.openai.forms import FormFields, read_form
from services.openai.hangup import ClientGoneError, until_hangup
from services.openai.models import Models
from services.openai.paths import MODELS, TRANSCRIPTION
from services.openai.transcription import TranscriptionFields, TranslationFields
from services.settings.sections import TRANSCRIPTION_MODELS
from services.transcription.answers import Answer
from services.transcription.engines.protocol import SAMPLE_RATE_HZ, TranscriptionRequest
from services.transcription.names import check_model
from services.transcription.schema import FOREIGN, LISTS, TEXTS, cutting_of, parse_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from starlette.types import Receive, Scope, Send

    from services.openai.forms import Form
    from services.transcription.engines.protocol import TranscriptionEngine

TRANSLATIONS: Final = "/v1/audio/translations"
PATHS: Final = {**TRANSCRIPTION, **MODELS}
"""What the role serves."""

ADMITTED: Final = frozenset(TRANSCRIPTION)
"""The paths on which a request makes the engine work."""


@dataclass(frozen=True)
class Bounds:
    """How much one request may bring: of the file as it is sent, and of what it unpacks to."""

    file_bytes: int = 36 << 20
    seconds: float = 6 * 3600.0


class TranscriptionApp:
    """The paths of one engine; starting and closing it is the caller's."""

    def __init__(
        self,
        engine: TranscriptionEngine,
        *,
        aliases: Collection[str] = TRANSCRIPTION_MODELS,
        bounds: Bounds | None = None,
        on_audio_seconds: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        """Hear with `engine`.

        Args:
            engine: what hears.
            aliases: model names it answers to beside its own.
            bounds: of a recording.
            on_audio_seconds: told, once a request, how many seconds were heard.
        """
        self._engine = engine
        self._models = Models((*engine.models, *aliases), role="transcription")
        self._bounds = bounds or Bounds()
        self._form = FormFields(TEXTS, {"file": self._bounds.file_bytes}, LISTS, FOREIGN)
        self._on_audio_seconds = on_audio_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, unless its client hangs up before that."""
        route: str = scope["bentovox.route"]
        if route == "/v1/models":
            await send_json(send, self._models.listed())
        elif route == "/v1/models/{*}":
            await send_json(send, self._models.card(scope["path"].removeprefix("/v1/models/")))
        else:
            with suppress(ClientGoneError):
                await self._hear(route, scope, receive, send)

    async def _hear(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        form = await read_form(scope, receive, self._form)
        answer = self._answer(path, form)
        del form  # the recording alone holds the file, and lets it go when it is decoded
        await until_hangup(receive, answer.send_to(send))

    def _answer(self, path: str, form: Form) -> Answer:
        """Return the answer to a form, not begun yet.

        Raises:
            ServiceError: something in it is not served.
        """
        translating = path == TRANSLATIONS
        fields = parse_fields(TranslationFields if translating else TranscriptionFields, form)
        check_model(self._models, fields.model)
        recording = self._recording(form)
        if isinstance(fields, TranscriptionFields):
            granularities = fields.timestamp_granularities
            request = TranscriptionRequest(
                audio=recording,
                language=fields.language,
                languages=fields.languages,
                prompt=fields.prompt,
                keywords=fields.keywords,
                temperature=fields.temperature,
                words="word" in granularities,
                logprobs="logprobs" in fields.include,
                cutting=cutting_of(fields),
            )
        else:
            granularities = ()
            if not self._engine.translates:
                raise InvalidRequestError(
                    f"{self._engine.models[0]} does not translate; use a multilingual model that "
                    "does, such as small or large-v3",
                    param="model",
                    code="unsupported_value",
                )
            request = TranscriptionRequest(
                audio=recording,
                task="translate",
                prompt=fields.prompt,
                temperature=fields.temperature,
                cutting=cutting_of(fields),
            )
        self._engine.check(request)
        return Answer(
            segments=self._engine.transcribe(request),
            request=request,
            recording=recording,
            engine=self._engine.name,
            response_format=fields.response_format,
            with_segments=not granularities or "segment" in granularities,
            as_events=fields.stream,
            on_audio_seconds=self._on_audio_seconds,
        )

    def _recording(self, form: Form) -> Decoding:
        return Decoding(
            form.file("file").data,
            sample_rate_hz=SAMPLE_RATE_HZ,
            max_seconds=self._bounds.seconds,
        )
