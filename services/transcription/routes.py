"""The transcription role's paths: transcriptions, translations and models.

Handlers raise `ServiceError` for what they refuse, which the shell around them turns into HTTP. The
form's fields are checked before the recording is decoded, and headers are sent once the first
segment is known.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from services.audio.decode import Decoding
from services.errors import InvalidRequestError
from services.openai.documents import of_models
from services.openai.forms import FormFields, read_form
from services.openai.hangup import until_hangup
from services.openai.reading import read
from services.openai.transcription import (
    AudioFields,
    ServerVad,
    TranscriptionFields,
    TranslationFields,
)
from services.transcription.answers import Answer
from services.transcription.engines.protocol import (
    SAMPLE_RATE_HZ,
    SPEECH_ONLY,
    Cutting,
    TranscriptionRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.types import Receive, Scope, Send

    from services.openai.documents import Handlers
    from services.openai.forms import Form
    from services.openai.models import Models
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


_STRATEGY: Final = "chunking_strategy"
_DIARIZED: Final = "diarized_json"
_SPEAKERS: Final = frozenset({"known_speaker_names", "known_speaker_references"})

LISTS: Final = _SPEAKERS | {"languages", "keywords", "include", "timestamp_granularities"}
"""Fields that may be repeated, with or without `[]` after their names."""

TEXTS: Final = frozenset(TranscriptionFields.model_fields.keys() - LISTS) | {
    f"{_STRATEGY}[{name}]" for name in ServerVad.model_fields
}
FOREIGN: Final = frozenset({"temperature_inc"})  # whisper.cpp's

Fields = TypeVar("Fields", bound=AudioFields)


def parse_fields(model: type[Fields], form: Form) -> Fields:
    """Return a form's fields as `model`.

    Raises:
        InvalidRequestError: a field is invalid, or contradicts another; `param` names it.
    """
    given: dict[str, Any] = {**form.texts, **form.lists}
    _check_speakers(given)
    if (strategy := _strategy(given)) is not None:
        given[_STRATEGY] = strategy
    fields = read(model, given, "the form")
    for param, contradicts, message in _contradictions(fields):
        if contradicts:
            raise InvalidRequestError(message, param=param, code="invalid_value")
    return fields


def _check_speakers(given: dict[str, Any]) -> None:
    named = next((name for name in sorted(_SPEAKERS) if name in given), None)
    if given.get("response_format") == _DIARIZED:
        named = "response_format"
    if named is not None:
        raise InvalidRequestError(
            f"{named}: this server does not tell speakers apart; use verbose_json for text with "
            "times",
            param=named,
            code="unsupported_value",
        )


def _strategy(given: dict[str, Any]) -> Any:
    """Return the chunking strategy, sent as a word, as JSON, or as a field for each setting."""
    parts = {
        name: given.pop(f"{_STRATEGY}[{name}]")
        for name in ServerVad.model_fields
        if f"{_STRATEGY}[{name}]" in given
    }
    if parts:
        return parts
    written = given.get(_STRATEGY)
    if written is None or not written.lstrip().startswith(("{", '"')):
        return written
    try:
        return json.loads(written)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(
            f"{_STRATEGY} is not valid JSON: {error}", param=_STRATEGY, code="invalid_json"
        ) from error


def _contradictions(fields: AudioFields) -> Iterator[tuple[str, object, str]]:
    """Yield which field contradicts another, whether it does, and what to say of it."""
    written = fields.response_format
    if isinstance(fields, TranscriptionFields):
        # SDKs send `segment` with any format, where it does no harm.
        yield (
            "timestamp_granularities",
            "word" in fields.timestamp_granularities and written != "verbose_json",
            f"timestamp_granularities word goes with response_format verbose_json, not {written}",
        )
        yield (
            "vad_filter",
            fields.chunking_strategy is not None and not fields.vad_filter,
            "chunking_strategy leaves silence out, vad_filter false keeps it; send one of them",
        )
        yield (
            "include",
            fields.include and written != "json",
            f"include logprobs goes with response_format json, not {written}",
        )
        yield (
            "languages",
            fields.language is not None and fields.languages,
            "language and languages exclude each other; send one of them",
        )
    yield (
        "stream",
        fields.stream and written in {"srt", "vtt"},
        (
            f"{written} is not streamed as events; use json, text or verbose_json with stream, or "
            "leave stream out: subtitles are sent as they are made"
        ),
    )


def cutting_of(fields: AudioFields) -> Cutting | None:
    """Return how to leave silence out and find pauses; None to hear everything."""
    strategy = fields.chunking_strategy if isinstance(fields, TranscriptionFields) else None
    if isinstance(strategy, ServerVad):
        return Cutting(**strategy.model_dump(exclude={"type"}))
    if strategy is not None:
        return Cutting()
    return SPEECH_ONLY if fields.vad_filter else None
