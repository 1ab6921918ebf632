"""Forms and answers of the transcription paths: OpenAI's, with additions."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NotRequired, TypeAlias

from pydantic import AfterValidator, Field, field_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from services.languages import code_of
from services.openai.reading import LaxFields
from services.openai.speech import Id

TranscriptFormat: TypeAlias = Literal["json", "text", "srt", "verbose_json", "vtt"]

TEXT_TYPES: Final[dict[TranscriptFormat, str]] = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "text/plain; charset=utf-8",
    "vtt": "text/plain; charset=utf-8",
}
"""As in OpenAI's API, where subtitles are plain text, too."""

MOST_LANGUAGES: Final = 16
MOST_KEYWORDS: Final = 100

Prompt = Annotated[str, Field(max_length=4096)]
Keyword = Annotated[str, Field(min_length=1, max_length=100)]
Threshold = Annotated[float, Field(ge=0, le=1)]
VadMilliseconds = Annotated[int, Field(ge=0, le=10_000)]


def _code(given: str) -> str | None:
    try:
        return code_of(given)
    except ValueError as error:
        raise PydanticCustomError(
            "language", "a language is a tag such as en or en-GB, a name such as English, or auto"
        ) from error


Language = Annotated[str, Field(max_length=64), AfterValidator(_code)]
"""A language by its tag or English name, converted to its code; None if it is to be detected."""


def any_of(codes: tuple[str | None, ...]) -> tuple[str, ...]:
    """Return the languages to choose from; none if any of them is to be detected."""
    return () if None in codes else tuple(filter(None, codes))


class AudioFields(LaxFields):
    """The text fields of a form.

    `vad_filter` is what faster-whisper and other servers call skipping what is not speech.
    """

    model: Id
    prompt: Prompt = ""
    response_format: TranscriptFormat = "json"
    temperature: Annotated[float, Field(ge=0, le=1)] = 0.0
    stream: bool = False
    vad_filter: bool = True


class ServerVad(LaxFields):
    """How pauses are detected: OpenAI's VadConfig."""

    type: Literal["server_vad"]
    threshold: Threshold = 0.5
    prefix_padding_ms: VadMilliseconds = 300
    silence_duration_ms: VadMilliseconds = 200


class TranscriptionFields(AudioFields):
    """OpenAI's CreateTranscriptionRequest, beside its `file`."""

    language: Language | None = None
    languages: Annotated[tuple[Language, ...], Field(max_length=MOST_LANGUAGES)] = ()
    keywords: Annotated[tuple[Keyword, ...], Field(max_length=MOST_KEYWORDS)] = ()
    include: tuple[Literal["logprobs"], ...] = ()
    timestamp_granularities: tuple[Literal["word", "segment"], ...] = ()
    chunking_strategy: Literal["auto"] | ServerVad | None = None

    @field_validator("languages", mode="after")
    @classmethod
    def _any(cls, given: tuple[str | None, ...]) -> tuple[str, ...]:
        return any_of(given)


class TranslationFields(AudioFields):
    """OpenAI's CreateTranslationRequest, beside its `file`; `stream` as for transcriptions."""


class Transcript(TypedDict):
    """OpenAI's `Transcription`, or its `TranscriptionVerbose`."""

    text: str
    usage: dict[str, Any]
    logprobs: NotRequired[list[dict[str, Any]]]
    task: NotRequired[Literal["transcribe", "translate"]]
    language: NotRequired[str]
    duration: NotRequired[float]
    lost_seconds: NotRequired[float]
    segments: NotRequired[list[dict[str, Any]]]
    words: NotRequired[list[dict[str, Any]]]
