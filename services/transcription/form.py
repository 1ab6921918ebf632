"""The form of a transcription or translation: reading and checking its fields."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeVar

from services.errors import InvalidRequestError
from services.openai.reading import read
from services.openai.transcription import AudioFields, ServerVad, TranscriptionFields
from services.transcription.engines.protocol import SPEECH_ONLY, Cutting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.openai.forms import Form

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
