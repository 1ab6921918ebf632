"""Messages of the realtime API that every type of session has.

Their shapes are in openai-python, `openai/types/realtime/`. A client's event is a JSON object with
a `type` and an optional `event_id`, which is repeated in the error that it causes.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qs

from pydantic import Field
from starlette.types import Scope, Send

from services.audio.formats import LiveFormat
from services.errors import InvalidRequestError, ServiceError
from services.openai.answers import new_id
from services.openai.errors import fault_of
from services.openai.reading import Fields, parse_object, read
from services.openai.speech import Id
from services.openai.transcription import (
    MOST_KEYWORDS,
    MOST_LANGUAGES,
    Keyword,
    Language,
    Prompt,
    Threshold,
    VadMilliseconds,
)

AUDIO_CHARACTERS: Final = 15 * 1024 * 1024
"""OpenAI's limit for one `input_audio_buffer.append`."""

_SUBPROTOCOL: Final = "realtime"
"""Browsers offer it beside the one with their key, and expect it to be accepted."""

_ID_CHARACTERS: Final = 512


def query_of(scope: Scope) -> dict[str, list[str]]:
    """Return the values that a connection's URL has for each name."""
    return parse_qs(scope.get("query_string", b"").decode("latin-1"))


async def accept(scope: Scope, send: Send) -> None:
    """Accept a connection."""
    offered = _SUBPROTOCOL in scope.get("subprotocols", ())
    await send({"type": "websocket.accept", "subprotocol": _SUBPROTOCOL if offered else None})


class ClientEvent(Fields):
    """The fields of every client event."""

    type: str
    event_id: Annotated[str, Field(max_length=_ID_CHARACTERS)] | None = None


class AppendEvent(ClientEvent):
    """`input_audio_buffer.append`: more audio, in base64."""

    audio: Annotated[str, Field(max_length=AUDIO_CHARACTERS)]

    def data(self) -> bytes:
        """Return the bytes; InvalidRequestError if it is not base64."""
        try:
            return base64.b64decode(self.audio, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidRequestError(
                "audio is not valid base64", param="audio", code="invalid_base64"
            ) from error


BUFFER_EVENTS: Final[dict[str, type[ClientEvent]]] = {
    "input_audio_buffer.append": AppendEvent,
    "input_audio_buffer.commit": ClientEvent,
    "input_audio_buffer.clear": ClientEvent,
}
"""The events about the incoming audio: more of it, what there is is a turn, and forget that."""


class FormatFields(Fields):
    """The format of audio, incoming or outgoing."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
    rate: Literal[24000] | None = None

    def checked(self, param: str) -> LiveFormat:
        """Return the format; InvalidRequestError for a rate that it has not."""
        if self.rate is not None and self.type != "audio/pcm":
            raise InvalidRequestError(
                f"{param}.rate is for audio/pcm only; {self.type} always has 8000 Hz, leave it out",
                param=f"{param}.rate",
                code="unsupported_parameter",
            )
        return self.type


class TranscriptionFields(Fields):
    """`session.audio.input.transcription`."""

    model: Id | None = None
    language: Language | None = None
    prompt: Prompt | None = None
    languages: Annotated[list[Language], Field(max_length=MOST_LANGUAGES)] | None = None
    keywords: Annotated[list[Keyword], Field(max_length=MOST_KEYWORDS)] | None = None
    delay: object = None


Eagerness = Literal["low", "medium", "high", "auto"]


class TurnDetectionFields(Fields):
    """`session.audio.input.turn_detection`; the last four are about answers in a conversation.

    `min_speech_duration_ms` is ours.
    """

    type: str
    threshold: Threshold | None = None
    prefix_padding_ms: VadMilliseconds | None = None
    silence_duration_ms: VadMilliseconds | None = None
    min_speech_duration_ms: VadMilliseconds | None = None
    create_response: bool | None = None
    interrupt_response: bool | None = None
    idle_timeout_ms: int | None = None
    eagerness: Eagerness | None = None


class InputFields(Fields):
    """`session.audio.input`; fields that are left out do not change."""

    format: FormatFields | None = None
    transcription: TranscriptionFields | None = None
    turn_detection: TurnDetectionFields | None = None
    noise_reduction: object = None


def format_object(live_format: LiveFormat) -> dict[str, object]:
    """Return a format as an object of the session."""
    return {"type": live_format, **({"rate": 24_000} if live_format == "audio/pcm" else {})}


def parse_event(fields: dict[str, Any], kinds: Mapping[str, type[ClientEvent]]) -> ClientEvent:
    """Return the event as one of `kinds`, chosen by its `type`, or raise InvalidRequestError."""
    kind = fields.get("type")
    model = kinds.get(kind) if isinstance(kind, str) else None
    if model is None:
        why = f"is not one of {', '.join(kinds)}"
        if kind == "transcription_session.update":
            why = (
                "transcription_session.update went with OpenAI's beta; send session.update, with "
                "session.type transcription"
            )
        raise InvalidRequestError(f"type {why}", param="type", code="invalid_value")
    return read(model, fields, "the message")


async def act_on(
    said: str | bytes,
    act: Callable[[dict[str, Any]], Awaitable[None]],
    send: Callable[[str], Awaitable[None]],
) -> None:
    """Do what a client's message says; send what is wrong with it, and the session goes on."""
    event_id = None
    try:
        if isinstance(said, bytes):
            raise InvalidRequestError(
                "binary messages are not accepted; send JSON as text", code="invalid_message"
            )
        fields = parse_object(said, "the message")
        given = fields.get("event_id")
        if isinstance(given, str) and len(given) <= _ID_CHARACTERS:
            event_id = given
        await act(fields)
    except ServiceError as error:
        await send(fault_event(error, event_id))


def server_event(kind: str, **fields: object) -> str:
    """Return a server event as JSON."""
    # ASCII, since what is repeated from the client may contain half of a surrogate pair.
    return json.dumps({"type": kind, "event_id": new_id("event"), **fields})


def fault_event(error: ServiceError, event_id: str | None = None) -> str:
    """Return the event for `error`, which the client's event `event_id` caused."""
    return server_event("error", error={**fault_of(error), "event_id": event_id})
