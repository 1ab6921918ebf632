"""The body of POST /v1/audio/speech on the wire; nothing unknown passes."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.audio.encode import AudioFormat
from services.errors import InvalidRequestError
from services.speech.engines.protocol import SPEED_RANGE

INPUT_CHARACTERS: Final = 4096
"""OpenAI's limit of `input`, and of `instructions`."""


class VoiceId(BaseModel):
    """A voice as an object, which is how OpenAI names a custom voice."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: Annotated[str, Field(min_length=1, max_length=256)]


class SpeechBody(BaseModel):
    """OpenAI's CreateSpeechRequest, with `language` and `seed` under vLLM-Omni's names.

    Types are strict: a speed of "1.0" is refused. `ref_audio` and `ref_text` are not fields yet.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    model: Annotated[str, Field(min_length=1, max_length=256)]
    input: Annotated[str, Field(min_length=1, max_length=INPUT_CHARACTERS)]
    voice: Annotated[str, Field(min_length=1, max_length=256)] | VoiceId
    instructions: Annotated[str, Field(max_length=INPUT_CHARACTERS)] | None = None
    response_format: AudioFormat = "mp3"
    speed: Annotated[float, Field(ge=SPEED_RANGE[0], le=SPEED_RANGE[1])] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"
    language: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None

    @property
    def voice_id(self) -> str:
        """The voice's id, however it was given."""
        return self.voice if isinstance(self.voice, str) else self.voice.id


def parse_speech_body(data: bytes) -> SpeechBody:
    """Return the body as it was sent.

    Raises:
        InvalidRequestError: malformed JSON or a field at fault, which `param` names; `code` is one
            of OpenAI's own words for it.
    """
    try:
        return SpeechBody.model_validate_json(data)
    except ValidationError as error:
        raise _refusal(error) from error


_SHOWN_CHARACTERS: Final = 64

# pydantic's type of an error -> OpenAI's code
_CODES: Final = {
    "extra_forbidden": "unknown_parameter",
    "missing": "missing_required_parameter",
    "string_too_long": "string_above_max_length",
    "string_too_short": "string_below_min_length",
    "greater_than_equal": "decimal_below_min_value",
    "less_than_equal": "decimal_above_max_value",
    "string_type": "invalid_type",
    "float_type": "invalid_type",
    "int_type": "invalid_type",
    "model_type": "invalid_type",
    "model_attributes_type": "invalid_type",
}


def _refusal(error: ValidationError) -> InvalidRequestError:
    """Turn pydantic's first error into one sentence with the field, and what is accepted."""
    first: Any = error.errors(include_url=False)[0]
    kind: str = first["type"]
    if kind == "json_invalid":
        return InvalidRequestError(
            f"the body is not valid JSON: {first['ctx']['error']}", code="invalid_json"
        )
    if not first["loc"]:
        return InvalidRequestError("the body is not a JSON object", code="invalid_type")
    place = [str(part) for part in first["loc"] if part not in ("constrained-str", "VoiceId")]
    field = ".".join(place) if place[0] != "voice" or place[1:] == ["id"] else "voice"
    if kind == "extra_forbidden":
        accepted = ", ".join(SpeechBody.model_fields)
        message = f"unknown parameter: {field!r}; accepted are {accepted}"
    elif kind == "missing":
        message = f"missing required parameter: {field!r}"
    else:
        what: str = first["msg"]
        value = repr(first["input"])
        given = f" {value}" if len(value) <= _SHOWN_CHARACTERS else ""
        message = f"{field}{given}: {what[0].lower()}{what[1:]}"
    return InvalidRequestError(message, param=field, code=_CODES.get(kind, "invalid_value"))
