"""What the transcription role reads on the wire."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from services.errors import InvalidRequestError
from services.languages import code_of
from services.openai.unknown import read
from services.transcription.engines.protocol import SPEECH_ONLY, Cutting
from services.transcription.formats import TranscriptFormat

if TYPE_CHECKING:
    from services.openai.forms import Form

_NAME: Final = 256
MOST_LANGUAGES: Final = 16
MOST_KEYWORDS: Final = 100
_STRATEGY: Final = "chunking_strategy"


def _code(given: str) -> str | None:
    try:
        return code_of(given)
    except ValueError as error:
        raise PydanticCustomError(
            "language", "a language is a tag such as en or en-GB, a name such as English, or auto"
        ) from error


Language = Annotated[str, Field(max_length=64), AfterValidator(_code)]
"""A language by its tag or its English name, read as its code; None where it is to be found."""


def any_of(codes: tuple[str | None, ...]) -> tuple[str, ...]:
    """Return the languages to choose from; where one may be any, none is named."""
    return () if None in codes else tuple(filter(None, codes))


Keyword = Annotated[str, Field(min_length=1, max_length=100)]
_DIARIZED: Final = "diarized_json"
_SPEAKERS: Final = frozenset({"known_speaker_names", "known_speaker_references"})


class _Fields(BaseModel):
    """The text fields of a form; numbers are written out there, so that types are lax.

    `vad_filter` is faster-whisper's name, and other servers', for leaving out what is no speech.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    model: Annotated[str, Field(min_length=1, max_length=_NAME)]
    prompt: Annotated[str, Field(max_length=4096)] = ""
    response_format: TranscriptFormat = "json"
    temperature: Annotated[float, Field(ge=0, le=1)] = 0.0
    stream: bool = False
    vad_filter: bool = True

    @property
    def cutting(self) -> Cutting | None:
        """How silence is left out; None to hear everything."""
        return SPEECH_ONLY if self.vad_filter else None


class _ServerVad(BaseModel):
    """How a client wants pauses to be found: OpenAI's VadConfig."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    type: Literal["server_vad"]
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    prefix_padding_ms: Annotated[int, Field(ge=0, le=10_000)] = 300
    silence_duration_ms: Annotated[int, Field(ge=0, le=10_000)] = 200


class TranscriptionFields(_Fields):
    """OpenAI's CreateTranscriptionRequest, beside its `file`."""

    language: Language | None = None
    languages: Annotated[tuple[Language, ...], Field(max_length=MOST_LANGUAGES)] = ()
    keywords: Annotated[tuple[Keyword, ...], Field(max_length=MOST_KEYWORDS)] = ()
    include: tuple[Literal["logprobs"], ...] = ()
    timestamp_granularities: tuple[Literal["word", "segment"], ...] = ()
    chunking_strategy: Literal["auto"] | _ServerVad | None = None

    @field_validator("languages", mode="after")
    @classmethod
    def _any(cls, given: tuple[str | None, ...]) -> tuple[str, ...]:
        return any_of(given)

    @property
    def cutting(self) -> Cutting | None:
        """How silence is left out and pauses are found; None to hear everything."""
        if isinstance(self.chunking_strategy, _ServerVad):
            given = self.chunking_strategy
            return Cutting(given.threshold, given.prefix_padding_ms, given.silence_duration_ms)
        return super().cutting if self.chunking_strategy is None else Cutting()


class TranslationFields(_Fields):
    """OpenAI's CreateTranslationRequest, beside its `file`; `stream` as for transcriptions."""


LISTS: Final = _SPEAKERS | {"languages", "keywords", "include", "timestamp_granularities"}
"""Fields that come again and again, with or without `[]` behind their names."""

TEXTS: Final = frozenset(TranscriptionFields.model_fields.keys() - LISTS) | {
    f"{_STRATEGY}[{name}]" for name in _ServerVad.model_fields
}
FOREIGN: Final = frozenset({"temperature_inc"})  # whisper.cpp's

Fields = TypeVar("Fields", bound=_Fields)


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
        for name in _ServerVad.model_fields
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
