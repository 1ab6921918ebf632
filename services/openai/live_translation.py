"""Client events of live translation, `/v1/realtime/translations`.

Names are those of openai-python, `openai/types/realtime/realtime_translation_*.py`. Ours are the
voice, and what `transcription` has beside the model.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from services.openai.realtime import AppendEvent, ClientEvent, Fields, TranscriptionFields
from services.openai.speech import Id, VoiceId

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


class AudioFields(Fields):
    """`session.audio`."""

    input: SourceFields | None = None
    output: TargetFields | None = None


class TranslationFields(Fields):
    """`session` of a `session.update`; fields that are left out do not change."""

    type: Literal["translation"] | None = None
    model: Id | None = None
    audio: AudioFields | None = None


class TranslationUpdate(ClientEvent):
    """`session.update`."""

    session: TranslationFields


class TranslationClose(ClientEvent):
    """`session.close`: translate what was heard, then end."""


EVENTS: Final[dict[str, type[ClientEvent]]] = {
    "session.update": TranslationUpdate,
    "session.input_audio_buffer.append": AppendEvent,
    "session.close": TranslationClose,
}
"""All of them."""
