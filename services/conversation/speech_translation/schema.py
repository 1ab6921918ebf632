"""What POST /v1/audio/speech-translations reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.audio.encode import AudioFormat
from services.errors import InvalidRequestError
from services.openai.unknown import read

if TYPE_CHECKING:
    from services.openai.forms import Form

_CODE_CHARACTERS: Final = 32

_Id = Annotated[str, Field(min_length=1, max_length=256)]
_Code = Annotated[str, Field(min_length=1, max_length=_CODE_CHARACTERS)]
_Text = Annotated[str, Field(max_length=4096)]


class SpeechTranslationFields(BaseModel):
    """The form, beside its `file`.

    The names are those of audio/transcriptions for what is heard (`model`, `prompt`) and of
    audio/speech for what is spoken. `language` is that of the answer.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        str_strip_whitespace=True,
    )

    language: _Code
    source_language: _Code | None = None
    model: _Id | None = None
    chat_model: _Id | None = None
    speech_model: _Id | None = None
    prompt: _Text = ""
    voice: _Id | None = None
    consent: _Id | None = None
    instructions: _Text | None = None
    speed: Annotated[float, Field(ge=0.25, le=4.0)] | None = None
    response_format: AudioFormat = "mp3"
    stream_format: Literal["audio", "sse"] = "audio"

    @property
    def manner(self) -> dict[str, Any]:
        """The fields of audio/speech that were given, but for the voice."""
        given = {"speed": self.speed, "instructions": self.instructions}
        return {name: value for name, value in given.items() if value is not None}


def parse(form: Form) -> SpeechTranslationFields:
    """Return a form's fields.

    Raises:
        InvalidRequestError: a field at fault, which `param` names; or no file.
    """
    fields = read(SpeechTranslationFields, form.texts, "the form")
    form.file("file")
    if fields.voice is not None and fields.consent is not None:
        raise InvalidRequestError(
            "voice and consent are two voices: a consent stands for that of the recording; send "
            "one of them",
            param="voice",
            code="invalid_value",
        )
    return fields
