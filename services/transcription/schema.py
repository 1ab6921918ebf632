"""What the transcription role reads on the wire."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeVar

from services.errors import InvalidRequestError
from services.openai.transcription import AudioFields, ServerVad, TranscriptionFields
from services.openai.unknown import read
from services.transcription.engines.protocol import SPEECH_ONLY, Cutting

if TYPE_CHECKING:
    from services.openai.forms import Form

_STRATEGY: Final = "chunking_strategy"
_DIARIZED: Final = "diarized_json"
_SPEAKERS: Final = frozenset({"known_speaker_names", "known_speaker_references"})

LISTS: Final = _SPEAKERS | {"languages", "keywords", "include", "timestamp_granularities"}
"""Fields that come again and again, with or without `[]` behind their names."""

TEXTS: Final = frozenset(TranscriptionFields.model_fields.keys() - LISTS) | {
    f"{_STRATEGY}[{name}]" for name in ServerVad.model_fields
}
FOREIGN: Final = frozenset({"temperature_inc"})  # whisper.cpp's

Fields = TypeVar("Fields", bound=AudioFields)


def parse_fields(model: type[Fields], form: Form) -> Fields:
    """Return a form's fields as `model`.

    Raises:
        InvalidRequestError: a field at fault, which `param` names, or two that do not go together.
    """
    given: dict[str, Any] = {**form.texts, **form.lists}
    _check_speakers(given)
    if (strategy := _strategy(given)) is not None:
        given[_STRATEGY] = strategy
    fields = read(model, given, "the form")
    if isinstance(fields, TranscriptionFields):
        _check_together(fields)
    if fields.stream and fields.response_format in {"srt", "vtt"}:
        raise InvalidRequestError(
            f"{fields.response_format} is no stream of events; use json, text or verbose_json with "
            "stream, or leave stream out: subtitles are sent as they are made",
            param="stream",
            code="invalid_value",
        )
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
    """Return the chunking strategy as an object, however the client has written it."""
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


def _check_together(fields: TranscriptionFields) -> None:
    # SDKs send `segment` with any format, and lose nothing where there are none.
    if "word" in fields.timestamp_granularities and fields.response_format != "verbose_json":
        raise InvalidRequestError(
            "timestamp_granularities word goes with response_format verbose_json, not "
            f"{fields.response_format}",
            param="timestamp_granularities",
            code="invalid_value",
        )
    if fields.chunking_strategy is not None and not fields.vad_filter:
        raise InvalidRequestError(
            "chunking_strategy cuts speech out, and vad_filter false hears everything; send one of "
            "them",
            param="vad_filter",
            code="invalid_value",
        )
    if fields.include and fields.response_format != "json":
        raise InvalidRequestError(
            f"include logprobs goes with response_format json, not {fields.response_format}",
            param="include",
            code="invalid_value",
        )
    if fields.language is not None and fields.languages:
        raise InvalidRequestError(
            "language and languages are two answers to one question; send one of them",
            param="languages",
            code="invalid_value",
        )


def cutting_of(fields: AudioFields) -> Cutting | None:
    """Return how silence is left out and pauses are found; None to hear everything."""
    strategy = fields.chunking_strategy if isinstance(fields, TranscriptionFields) else None
    if isinstance(strategy, ServerVad):
        return Cutting(strategy.threshold, strategy.prefix_padding_ms, strategy.silence_duration_ms)
    if strategy is not None:
        return Cutting()
    return SPEECH_ONLY if fields.vad_filter else None
