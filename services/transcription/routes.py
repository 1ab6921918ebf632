"""The transcription role's paths: transcriptions, translations and models.

Handlers raise `ServiceError` for what they refuse, which the shell around them turns into HTTP. The
form's fields are checked before the recording is decoded, and headers are sent once the first
segment is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from services.audio.decode import Decoding
from services.openai.answers import of_models
from services.openai.body import until_hangup
from services.openai.forms import FormFields, read_form
from services.openai.transcription import TranscriptionFields, TranslationFields
from services.transcription.answers import Answer
from services.transcription.engines.protocol import SAMPLE_RATE_HZ, TranscriptionRequest
from services.transcription.form import FOREIGN, LISTS, TEXTS, cutting_of, parse_fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from services.openai.answers import Handlers
    from services.openai.forms import Form
    from services.openai.models import Models
    from services.openai.transcription import AudioFields
    from services.settings.sections import TranscriptionSettings
    from services.transcription.engines.protocol import TranscriptionEngine


def handlers_of(
    engine: TranscriptionEngine,
    models: Models,
    settings: TranscriptionSettings,
    on_audio_seconds: Callable[[float], None],
) -> Handlers:
    """Return the table of the role's paths; the caller starts and closes the engine.

    Args:
        engine: what transcribes.
        models: the names that it answers to.
        settings: bound the recordings.
        on_audio_seconds: called once a request with the seconds heard.
    """
    recordings = _Recordings(engine, models, settings, on_audio_seconds)
    return {
        **of_models(models.cards, models.missing),
        ("POST", "/v1/audio/transcriptions"): partial(recordings.hear, recordings.transcription),
        ("POST", "/v1/audio/translations"): partial(recordings.hear, recordings.translation),
    }


@dataclass(frozen=True)
class _Recordings:
    """The handlers of the paths that take a recording."""

    engine: TranscriptionEngine
    models: Models
    settings: TranscriptionSettings
    on_audio_seconds: Callable[[float], None]

    async def hear(
        self, answer_to: Callable[[Form], Answer], scope: Scope, receive: Receive, send: Send
    ) -> None:
        fields = FormFields(TEXTS, {"file": self.settings.body_limit_bytes}, LISTS, FOREIGN)
        # No name here keeps the form: the recording alone has the file's bytes, and frees them.
        answer = answer_to(await read_form(scope, receive, fields))
        await until_hangup(receive, answer.send_to(send))

    def transcription(self, form: Form) -> Answer:
        fields = parse_fields(TranscriptionFields, form)
        granularities = fields.timestamp_granularities
        return self._answer(
            form,
            fields,
            with_segments=not granularities or "segment" in granularities,
            language=fields.language,
            languages=fields.languages,
            keywords=fields.keywords,
            words="word" in granularities,
            logprobs="logprobs" in fields.include,
        )

    def translation(self, form: Form) -> Answer:
        return self._answer(form, parse_fields(TranslationFields, form), task="translate")

    def _answer(
        self, form: Form, fields: AudioFields, *, with_segments: bool = True, **asked: Any
    ) -> Answer:
        """Return the answer, not started yet; `asked` are further fields of the engine's request.

        Raises:
            ServiceError: the request asks for something that is not served.
        """
        self.models.check(fields.model)
        recording = Decoding(
            form.file("file").data,
            sample_rate_hz=SAMPLE_RATE_HZ,
            max_seconds=self.settings.max_hours * 3600,
        )
        request = TranscriptionRequest(
            audio=recording,
            prompt=fields.prompt,
            temperature=fields.temperature,
            cutting=cutting_of(fields),
            **asked,
        )
        self.engine.check(request)
        return Answer(
            engine=self.engine,
            request=request,
            recording=recording,
            response_format=fields.response_format,
            with_segments=with_segments,
            as_events=fields.stream,
            on_audio_seconds=self.on_audio_seconds,
        )
