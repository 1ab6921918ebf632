"""Bodies, forms and answers of the speech paths: OpenAI's, with additions."""

from __future__ import annotations

from typing import Annotated, Final, Literal, NotRequired, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from services.audio.formats import SPEED_RANGE, AudioFormat, SampleRate
from services.errors import InvalidRequestError
from services.openai.models import Named
from services.openai.reading import Fields, LaxFields, missing

INPUT_CHARACTERS: Final = 4096
"""OpenAI's limit for `input` and `instructions`."""

TRANSCRIPT_CHARACTERS: Final = 1024
"""Enough for a recording of 30 s in any language."""

REFERENCE_CHARACTERS: Final = 14 * 1024 * 1024
"""For `ref_audio`: 10 MiB in base64, and the start of the data URL."""

_NAME: Final = 256
# No control characters: names appear in logs.
_Label = Annotated[str, Field(min_length=1, max_length=_NAME, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Id = Annotated[str, Field(min_length=1, max_length=_NAME)]
Speed = Annotated[float, Field(ge=SPEED_RANGE[0], le=SPEED_RANGE[1])]
_Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_Transcript = Annotated[str, Field(max_length=TRANSCRIPT_CHARACTERS)]
# BCP 47, roughly: `en`, `en-US`, `zh-Hant-TW`.
_Tag = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$")]


def _rate(text: str) -> int | str:
    """Return a number from a form as an int, which pydantic does not do for a Literal."""
    return int(text) if text.isdecimal() and len(text) <= len("48000") else text


def check_alone(field: str, given: str | None) -> None:
    """Refuse a field that needs `ref_audio`, in a request without one."""
    if given is not None:
        raise InvalidRequestError(
            f"{field} needs ref_audio, which is missing; leave it out",
            param=field,
            code="invalid_value",
        )


class VoiceId(Fields):
    """A voice as an object, as OpenAI sends custom voices."""

    id: Id


class Manner(Fields):
    """How to speak: the fields of a request and of a live session.

    `language`, `seed`, `ref_audio` and `ref_text` are named as in vLLM-Omni; `consent` is the id of
    the consent to clone the voice of `ref_audio`.
    """

    voice: Id | VoiceId | None = None
    instructions: Annotated[str, Field(max_length=INPUT_CHARACTERS)] | None = None
    sample_rate: SampleRate | None = None
    speed: Speed = 1.0
    language: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    seed: _Seed | None = None
    ref_audio: Annotated[str, Field(min_length=1, max_length=REFERENCE_CHARACTERS)] | None = None
    ref_text: _Transcript | None = None
    consent: Id | None = None

    @property
    def voice_id(self) -> str:
        """The voice's id, in whichever form it was sent; empty if it was not."""
        return self.voice.id if isinstance(self.voice, VoiceId) else self.voice or ""

    @model_validator(mode="after")
    def _has_a_voice(self) -> Self:
        """Refuse a request with neither a voice nor a recording, or with half of the latter."""
        if self.ref_audio is None:
            if self.voice is None:
                raise missing("voice")
            check_alone("ref_text", self.ref_text)
            check_alone("consent", self.consent)
        return self


class SpeechBody(Manner):
    """OpenAI's CreateSpeechRequest, with additions.

    `stream` is vLLM-Omni's. With `ref_audio`, `voice` is optional and ignored; OpenAI's SDK always
    sends one.
    """

    model: Id
    input: Annotated[str, Field(min_length=1, max_length=INPUT_CHARACTERS)]
    response_format: AudioFormat = "mp3"
    stream_format: Literal["audio", "sse"] = "audio"
    stream: bool = True


class SessionConfig(Manner):
    """`session.config` on the WebSocket: how to speak, until the next one replaces it.

    The names and defaults are vLLM-Omni's, but `stream_audio` supports every format and speed.
    """

    model: Id | None = None
    response_format: AudioFormat = "wav"
    stream_audio: bool = False
    split_granularity: Literal["none", "sentence", "clause"] = "none"


class SpeechFields(LaxFields):
    """The text fields of a form."""

    model_config = ConfigDict(str_strip_whitespace=True)


class ConversionFields(SpeechFields):
    """The form of POST /v1/audio/voice-conversion, beside its files `file` and `ref_audio`."""

    model: Id | None = None
    voice: Id | None = None
    consent: Id | None = None
    response_format: AudioFormat = "mp3"
    sample_rate: Annotated[SampleRate, BeforeValidator(_rate)] | None = None
    speed: Speed = 1.0
    seed: _Seed | None = None
    stream: bool = True
    stream_format: Literal["audio", "sse"] = "audio"


class VoiceFields(SpeechFields):
    """The form of POST /v1/audio/voices, beside its file `audio_sample`.

    `text` is the sample's transcript; vLLM-Omni calls it `ref_text`. `prompt`, `model` and
    `script_hint` belong to OpenAI's voices of type `prompt`, which are not supported.
    """

    name: _Label
    type: Literal["audio_sample", "prompt"] = "audio_sample"
    consent: Id | None = None
    text: _Transcript | None = None
    ref_text: _Transcript | None = None
    language: _Tag | None = None
    prompt: str | None = None
    model: str | None = None
    script_hint: str | None = None


class ConsentFields(SpeechFields):
    """The form of POST /v1/audio/voice_consents, beside its file `recording`."""

    name: _Label
    language: _Tag


class ConsentName(SpeechFields):
    """The body of POST /v1/audio/voice_consents/{id}."""

    name: _Label


class ConsentPage(SpeechFields):
    """The query of GET /v1/audio/voice_consents."""

    after: Id | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20


class VoiceAnswer(TypedDict):
    """OpenAI's voice object, with additions; optional fields are those of registered voices."""

    id: str
    object: Literal["voice", "audio.voice"]
    name: str
    created_at: NotRequired[int]
    type: NotRequired[Literal["audio_sample"]]
    consent: NotRequired[str | None]
    text: NotRequired[str | None]
    duration_s: NotRequired[float]
    origin: NotRequired[str | None]
    languages: list[str]
    language: str | None
    gender: str | None
    alias_of: str | None


class Page(TypedDict):
    """OpenAI's list object, without its `data`."""

    object: Literal["list"]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VoiceList(Page):
    """A list for clients of several servers.

    Open WebUI and Kokoro's clients read `voices`, those of vLLM-Omni `uploaded_voices`.
    """

    data: list[VoiceAnswer]
    voices: list[Named]
    uploaded_voices: list[VoiceAnswer]


class ConsentAnswer(TypedDict):
    """OpenAI's consent object."""

    id: str
    object: Literal["audio.voice_consent"]
    name: str
    language: str
    created_at: int


class ConsentList(Page):
    """A page of consents."""

    data: list[ConsentAnswer]


class Deleted(TypedDict):
    """The answer to the deletion of a voice or consent."""

    id: str
    object: Literal["audio.voice.deleted", "audio.voice_consent"]
    deleted: Literal[True]
