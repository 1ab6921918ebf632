"""Bodies and answers of LibreTranslate's paths, and the form of speech translations."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from services.audio.formats import AudioFormat
from services.openai.reading import LaxFields
from services.openai.speech import INPUT_CHARACTERS, Id, SpeechFields, Speed
from services.openai.transcription import Prompt

_Code = Annotated[str, Field(min_length=1, max_length=32)]


class TranslationBody(LaxFields):
    """What LibreTranslate's bodies have in common."""

    api_key: Annotated[str, Field(max_length=256)] = ""


class TranslateBody(TranslationBody):
    """POST /translate."""

    q: str | list[str]
    source: _Code
    target: _Code
    format: Literal["text", "html"] = "text"
    alternatives: Annotated[int, Field(ge=0, le=10)] = 0

    @property
    def texts(self) -> list[str]:
        """The texts, whether one or a list was sent."""
        return [self.q] if isinstance(self.q, str) else self.q

    @property
    def translations(self) -> int:
        """How many translations of each text are wanted."""
        return 1 + self.alternatives


class DetectBody(TranslationBody):
    """POST /detect."""

    q: str


class Detection(TypedDict):
    """The language of a text; confidence is in percent."""

    confidence: Annotated[float, Field(ge=0, le=100)]
    language: str


class Translated(TypedDict):
    """The answer of POST /translate; its fields are lists if `q` was one."""

    translatedText: str | list[str]
    detectedLanguage: NotRequired[Detection | list[Detection]]
    alternatives: NotRequired[list[str] | list[list[str]]]


class LanguageAnswer(TypedDict):
    """A language in the answer of GET /languages."""

    code: str
    name: str
    targets: list[str]


class SpeechTranslationFields(SpeechFields):
    """The form, beside its `file`.

    Names are those of audio/transcriptions for the input (`model`, `prompt`) and of audio/speech
    for the output. `language` is the language to translate into.
    """

    language: _Code
    source_language: _Code | None = None
    model: Id | None = None
    chat_model: Id | None = None
    speech_model: Id | None = None
    prompt: Prompt = ""
    voice: Id | None = None
    consent: Id | None = None
    instructions: Annotated[str, Field(max_length=INPUT_CHARACTERS)] | None = None
    speed: Speed | None = None
    response_format: AudioFormat = "mp3"
    stream_format: Literal["audio", "sse"] = "audio"
