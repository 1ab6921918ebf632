"""Client events of live conversations and of live translations.

Names are those of openai-python, `openai/types/realtime/`. `temperature` is gone from OpenAI's
newest API and still accepted here. Ours are a translation's voice, and what its `transcription` has
beside the model.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field
from typing_extensions import TypedDict

from services.openai.reading import Fields
from services.openai.realtime import (
    AppendEvent,
    ClientEvent,
    FormatFields,
    InputFields,
    TranscriptionFields,
)
from services.openai.speech import Id, VoiceId

TEXT_CHARACTERS: Final = 256 * 1024
"""The most in one text of a conversation: an instruction, an item, a tool's result."""

_Text = Annotated[str, Field(max_length=TEXT_CHARACTERS)]
_Name = Annotated[str, Field(min_length=1, max_length=64)]
_Key = Annotated[str, Field(max_length=64)]
_Value = Annotated[str, Field(max_length=512)]

Modality = Literal["text", "audio"]


class OutputFields(Fields):
    """`session.audio.output`, and `response.audio.output`, which has no speed."""

    format: FormatFields | None = None
    voice: Id | VoiceId | None = None
    speed: Annotated[float, Field(ge=0.25, le=1.5)] | None = None


class SoundFields(Fields):
    """`session.audio`, and `response.audio`, which has no input."""

    input: InputFields | None = None
    output: OutputFields | None = None


class ToolFields(Fields):
    """A function that the model may call; its parameters are a JSON schema."""

    type: Literal["function"]
    name: _Name
    description: _Text | None = None
    parameters: dict[str, Any] | None = None


class ChoiceFields(Fields):
    """The function that the model has to call."""

    type: Literal["function"]
    name: _Name


class AnswerFields(Fields):
    """How to answer: by default in `session`, for one response in `response`."""

    audio: SoundFields | None = None
    instructions: _Text | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=4096)] | Literal["inf"] | None = None
    output_modalities: Annotated[list[Modality], Field(min_length=1, max_length=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChoiceFields | None = None
    tools: Annotated[list[ToolFields], Field(max_length=128)] | None = None
    parallel_tool_calls: object = None
    prompt: object = None
    reasoning: object = None


class ConversationFields(AnswerFields):
    """`session` of a `session.update`."""

    type: Literal["realtime"]
    model: Id | None = None
    include: object = None
    tracing: object = None
    truncation: object = None


class ConversationUpdate(ClientEvent):
    """`session.update`."""

    session: ConversationFields


class ContentFields(Fields):
    """A part of a message."""

    type: Literal["input_text", "input_audio", "output_text", "output_audio"]
    text: _Text | None = None
    transcript: _Text | None = None
    audio: str | None = None


class ItemFields(Fields):
    """An item; which fields it needs depends on its type. `item_reference` names another item."""

    type: Literal["message", "function_call", "function_call_output", "item_reference"]
    id: _Name | None = None
    object: Literal["realtime.item"] | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None
    role: Literal["user", "assistant", "system"] | None = None
    content: Annotated[list[ContentFields], Field(min_length=1, max_length=64)] | None = None
    call_id: _Name | None = None
    name: _Name | None = None
    arguments: _Text | None = None
    output: _Text | None = None


class ResponseFields(AnswerFields):
    """`response` of a `response.create`."""

    conversation: Literal["auto", "none"] | None = None
    input: Annotated[list[ItemFields], Field(max_length=256)] | None = None
    metadata: Annotated[dict[_Key, _Value], Field(max_length=16)] | None = None


class ExpiryFields(Fields):
    """When a client secret ends."""

    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Field(ge=10, le=7200)] = 600


class SecretBody(Fields):
    """POST /v1/realtime/client_secrets; the role that gets the session checks its settings."""

    expires_after: ExpiryFields | None = None
    session: dict[str, Any] | None = None


class ClientSecret(TypedDict):
    """A client secret, and the session that it opens."""

    value: str
    expires_at: int
    session: dict[str, Any]


class ItemCreate(ClientEvent):
    """`conversation.item.create`: after `previous_item_id`, or first (`root`), or last."""

    item: ItemFields
    previous_item_id: _Name | None = None


class ItemRetrieve(ClientEvent):
    """`conversation.item.retrieve`."""

    item_id: _Name


class ItemDelete(ClientEvent):
    """`conversation.item.delete`."""

    item_id: _Name


class ItemTruncate(ClientEvent):
    """`conversation.item.truncate`: only so much of an answer was heard."""

    item_id: _Name
    content_index: Annotated[int, Field(ge=0, le=0)] = 0
    audio_end_ms: Annotated[int, Field(ge=0)]


class ResponseCreate(ClientEvent):
    """`response.create`."""

    response: ResponseFields = ResponseFields()


class ResponseCancel(ClientEvent):
    """`response.cancel`: this response, or that in the conversation."""

    response_id: _Name | None = None


class OutputClear(ClientEvent):
    """`output_audio_buffer.clear`."""


EVENTS: Final[dict[str, type[ClientEvent]]] = {
    "session.update": ConversationUpdate,
    "conversation.item.create": ItemCreate,
    "conversation.item.retrieve": ItemRetrieve,
    "conversation.item.delete": ItemDelete,
    "conversation.item.truncate": ItemTruncate,
    "response.create": ResponseCreate,
    "response.cancel": ResponseCancel,
    "output_audio_buffer.clear": OutputClear,
}
"""The events beside those about the incoming audio."""


# Live translation

TRANSLATES: Final = "gpt-realtime-translate"
"""How OpenAI's model is called; it stands for the one that is served."""


class NoiseFields(Fields):
    """`session.audio.input.noise_reduction`."""

    type: Literal["near_field", "far_field"]
    strength: Annotated[float, Field(ge=0)] | None = None


class SourceFields(Fields):
    """`session.audio.input`; null turns either off."""

    noise_reduction: NoiseFields | None = None
    transcription: TranscriptionFields | None = None


class TargetFields(Fields):
    """`session.audio.output`."""

    language: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    voice: Id | VoiceId | None = None


class TranslationSoundFields(Fields):
    """`session.audio`."""

    input: SourceFields | None = None
    output: TargetFields | None = None


class TranslationFields(Fields):
    """`session` of a `session.update`; fields that are left out do not change."""

    type: Literal["translation"] | None = None
    model: Id | None = None
    audio: TranslationSoundFields | None = None


class TranslationUpdate(ClientEvent):
    """`session.update`."""

    session: TranslationFields


class TranslationClose(ClientEvent):
    """`session.close`: translate what was heard, then end."""


TRANSLATION_EVENTS: Final[dict[str, type[ClientEvent]]] = {
    "session.update": TranslationUpdate,
    "session.input_audio_buffer.append": AppendEvent,
    "session.close": TranslationClose,
}
"""All events of a live translation."""
