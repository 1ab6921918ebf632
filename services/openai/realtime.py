"""The realtime API's messages: what is the same for every type of session.

Shapes: openai-python, `openai/types/realtime/`. A client's event is a JSON object with a `type`,
and perhaps an `event_id`, which an error that it caused names.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.errors import InvalidRequestError
from services.openai.bounded_json import parse_object
from services.openai.errors import fault_of
from services.openai.events import new_id
from services.openai.unknown import read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.audio.live import LiveFormat
    from services.errors import ServiceError

AUDIO_CHARACTERS: Final = 15 * 1024 * 1024
"""Of one `input_audio_buffer.append`: OpenAI's limit."""

SUBPROTOCOL: Final = "realtime"
"""What browsers offer beside the one that carries their key, and want to hear back."""

_ID_CHARACTERS: Final = 512


class Fields(BaseModel):
    """Fields of a client's event: none that is unknown, none in another type."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class ClientEvent(Fields):
    """What every event of a client has."""

    type: str
    event_id: Annotated[str, Field(max_length=_ID_CHARACTERS)] | None = None


class AppendEvent(ClientEvent):
    """`input_audio_buffer.append`: more sound, in base64."""

    audio: Annotated[str, Field(max_length=AUDIO_CHARACTERS)]

    def data(self) -> bytes:
        """Return the bytes.

        Raises:
            InvalidRequestError: it is no base64.
        """
        try:
            return base64.b64decode(self.audio, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidRequestError(
                "audio is not valid base64", param="audio", code="invalid_base64"
            ) from error


class CommitEvent(ClientEvent):
    """`input_audio_buffer.commit`: what was said so far is a turn."""


class ClearEvent(ClientEvent):
    """`input_audio_buffer.clear`: forget what is not committed."""


BUFFER_EVENTS: Final[dict[str, type[ClientEvent]]] = {
    "input_audio_buffer.append": AppendEvent,
    "input_audio_buffer.commit": CommitEvent,
    "input_audio_buffer.clear": ClearEvent,
}
"""The events that speak of the sound which comes in."""


class FormatFields(Fields):
    """The format of that sound."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
    rate: Literal[24000] | None = None

    def checked(self, param: str) -> LiveFormat:
        """Return the format.

        Raises:
            InvalidRequestError: a rate beside a format that has its own.
        """
        if self.rate is not None and self.type != "audio/pcm":
            raise InvalidRequestError(
                f"{param}.rate belongs to audio/pcm; {self.type} has 8000 Hz always, leave it out",
                param=f"{param}.rate",
                code="unsupported_parameter",
            )
        return self.type


def format_object(live_format: LiveFormat) -> dict[str, object]:
    """Return a format as a session shows it."""
    return {"type": live_format, **({"rate": 24_000} if live_format == "audio/pcm" else {})}


def read_fields(data: str | bytes) -> dict[str, Any]:
    """Return the fields of a client's message.

    Raises:
        InvalidRequestError: it is no text, or no JSON object.
    """
    if isinstance(data, bytes):
        raise InvalidRequestError(
            "a binary message is not read here; send JSON as text", code="invalid_message"
        )
    return parse_object(data, "the message")


def parse_event(fields: dict[str, Any], kinds: Mapping[str, type[ClientEvent]]) -> ClientEvent:
    """Return the event, one of `kinds`, which are known by their `type`.

    Raises:
        InvalidRequestError: it is none of these, or a field is at fault, which `param` names.
    """
    kind = fields.get("type")
    model = kinds.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise InvalidRequestError(
            f"type is not one of {', '.join(kinds)}", param="type", code="invalid_value"
        )
    return read(model, fields, "the message")


def event_id_of(fields: dict[str, Any]) -> str | None:
    """Return what the client calls its event, if that is a name."""
    given = fields.get("event_id")
    return given if isinstance(given, str) and len(given) <= _ID_CHARACTERS else None


def server_event(kind: str, **fields: object) -> str:
    """Return an event of the server, as JSON."""
    # ASCII, since what a client sent and is told of may hold half of a surrogate pair.
    return json.dumps({"type": kind, "event_id": new_id("event"), **fields})


def fault_event(error: ServiceError, event_id: str | None = None) -> str:
    """Return the event that tells of `error`, caused by the client's event `event_id`."""
    return server_event("error", error={**fault_of(error), "event_id": event_id})
