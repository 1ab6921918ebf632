"""The transcription role's paths: transcriptions, translations and models, and their form.

Handlers raise `ServiceError` for what they refuse, which the shell around them turns into HTTP. The
form's fields are checked before the recording is decoded, and headers are sent once the first
segment is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, TypeVar

from starlette.types import Receive, Scope, Send

from services.audio.decode import Decoding
from services.openai.answers import Handlers, of_models
from services.openai.body import until_hangup
from services.openai.forms import Form, FormFields, read_form
from services.openai.models import Models
from services.openai.reading import invalid, read
from services.openai.transcription import (
    AudioFields,
    ServerVad,
    TranscriptionFields,
    TranslationFields,
)
from services.settings.sections import TranscriptionSettings
from services.transcription.answers import Answer
from services.transcription.engines import protocol

_STRATEGY: Final = "chunking_strategy"
_SPEAKERS: Final = frozenset({"known_speaker_names", "known_speaker_references"})
_LISTS: Final = _SPEAKERS | {"languages", "keywords", "include", "timestamp_granularities"}
_TEXTS: Final = frozenset(TranscriptionFields.model_fields.keys() - _LISTS) | {
    f"{_STRATEGY}[{name}]" for name in ServerVad.model_fields
}
_FOREIGN: Final = frozenset({"temperature_inc"})  # whisper.cpp's

Fields = TypeVar("Fields", bound=AudioFields)


def handlers_of(
    engine: protocol.TranscriptionEngine,
    models: Models,
    settings: TranscriptionSettings,
    on_audio_seconds: Callable[[float], None],
) -> Handlers:
    """Return the table of the role's paths; the caller starts and closes the engine.

    It answers to `models`; `on_audio_seconds` is called once a request with the seconds heard.
    """
    form_fields = FormFields(_TEXTS, {"file": settings.body_limit_bytes}, _LISTS, _FOREIGN)

    def answer_to(model: type[AudioFields], form: Form) -> Answer:
        fields = parse_fields(model, form)
        models.check(fields.model)
        data, most_s = form.file("file").data, settings.max_hours * 3600
        recording = Decoding(data, sample_rate_hz=protocol.SAMPLE_RATE_HZ, max_seconds=most_s)
        request = _request(fields, recording)
        engine.check(request)
        granularities = getattr(fields, "timestamp_granularities", ())
        return Answer(
            engine=engine,
            request=request,
            recording=recording,
            response_format=fields.response_format,
            with_segments=not granularities or "segment" in granularities,
            as_events=fields.stream,
            on_audio_seconds=on_audio_seconds,
        )

    async def hear(model: type[AudioFields], scope: Scope, receive: Receive, send: Send) -> None:
        # No name here keeps the form: the recording alone has the file's bytes, and frees them.
        answer = answer_to(model, await read_form(scope, receive, form_fields))
        await until_hangup(receive, answer.send_to(send))

    return {
        **of_models(models.cards, models.missing),
        ("POST", "/v1/audio/transcriptions"): partial(hear, TranscriptionFields),
        ("POST", "/v1/audio/translations"): partial(hear, TranslationFields),
    }


def _request(fields: AudioFields, recording: Decoding) -> protocol.TranscriptionRequest:
    asked: dict[str, Any] = {"task": "translate"}
    cutting = protocol.SPEECH_ONLY if fields.vad_filter else None
    if isinstance(fields, TranscriptionFields):
        asked = {
            "language": fields.language,
            "languages": fields.languages,
            "keywords": fields.keywords,
            "words": "word" in fields.timestamp_granularities,
            "logprobs": "logprobs" in fields.include,
        }
        if isinstance(fields.chunking_strategy, ServerVad):
            cutting = protocol.Cutting(**fields.chunking_strategy.model_dump(exclude={"type"}))
        elif fields.chunking_strategy is not None:
            cutting = protocol.Cutting()
    return protocol.TranscriptionRequest(
        audio=recording,
        prompt=fields.prompt,
        temperature=fields.temperature,
        cutting=cutting,
        **asked,
    )


def parse_fields(model: type[Fields], form: Form) -> Fields:
    """Return a form's fields, or raise InvalidRequestError; `param` names the one at fault."""
    given: dict[str, Any] = {**form.texts, **form.lists}
    named = next((name for name in sorted(_SPEAKERS) if name in given), "")
    if given.get("response_format") == "diarized_json":
        named = "response_format"
    if named:
        why = "this server does not tell speakers apart; use verbose_json for text with times"
        raise invalid(named, why, "unsupported_value")
    if (strategy := _strategy(given)) is not None:
        given[_STRATEGY] = strategy
    fields = read(model, given, "the form")
    for param, contradicts, why in _contradictions(fields):
        if contradicts:
            raise invalid(param, why)
    return fields


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
        raise invalid(_STRATEGY, f"is not valid JSON: {error}", "invalid_json") from error


def _contradictions(fields: AudioFields) -> Iterator[tuple[str, object, str]]:
    """Yield which field contradicts another, whether it does, and what to say of it."""
    written = fields.response_format
    if isinstance(fields, TranscriptionFields):
        # SDKs send `segment` with any format, where it does no harm.
        words = "word" in fields.timestamp_granularities and written != "verbose_json"
        why = f"word goes with response_format verbose_json, not {written}"
        yield "timestamp_granularities", words, why
        keeps = fields.chunking_strategy is not None and not fields.vad_filter
        why = "chunking_strategy leaves silence out, vad_filter false keeps it; send one of them"
        yield "vad_filter", keeps, why
        why = f"logprobs goes with response_format json, not {written}"
        yield "include", fields.include and written != "json", why
        why = "language and languages exclude each other; send one of them"
        yield "languages", fields.language is not None and fields.languages, why
    why = (
        f"{written} is not streamed as events; use json, text or verbose_json with stream, or "
        "leave stream out: subtitles are sent as they are made"
    )
    yield "stream", fields.stream and written in {"srt", "vtt"}, why
