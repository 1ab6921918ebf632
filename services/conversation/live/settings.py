"""The settings of a conversation, and how a client's `session.update` changes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from services.audio.formats import LiveFormat
from services.openai.conversation import AnswerFields, Modality, OutputFields
from services.openai.reading import ignore
from services.openai.realtime import Eagerness, InputFields, format_object

INSTRUCTIONS: Final = "You are a friendly voice assistant. Answer briefly."
"""What a model is told where the client sets no instructions; the demo model was trained on it."""

SEMANTIC: Final = "semantic_vad"
_PATIENCE_S: Final[dict[Eagerness, float]] = {"low": 8.0, "medium": 4.0, "auto": 4.0, "high": 2.0}
"""OpenAI's longest waits."""

_IGNORED: Final = (
    "include", "parallel_tool_calls", "prompt", "reasoning", "tracing", "truncation",
)  # fmt: skip
_AS_NULL: Final = (None, False, "auto")  # what asks for nothing


@dataclass(frozen=True)
class Answering:
    """How an answer is made; `max_output_tokens` is None for what the model can."""

    instructions: str = INSTRUCTIONS
    modality: Modality = "audio"
    live_format: LiveFormat = "audio/pcm"
    voice: str = "alloy"  # as at OpenAI; every engine has a voice of that name
    speed: float = 1.0
    temperature: float | None = None
    max_output_tokens: int | None = None
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, str] = "auto"

    def output_shown(self) -> dict[str, Any]:
        """Return `audio.output`."""
        return {"format": format_object(self.live_format), "voice": self.voice}

    def changed(self, given: AnswerFields, place: str) -> Answering:
        """Return the settings with everything that a client's object at `place` changes."""
        for name in _IGNORED:
            if getattr(given, name, None) not in _AS_NULL:
                ignore(f"{place}.{name}")
        output = (given.audio and given.audio.output) or OutputFields()
        choice, voice = given.tool_choice, output.voice
        new: dict[str, Any] = {
            "instructions": given.instructions,
            "temperature": given.temperature,
            "modality": given.output_modalities and given.output_modalities[0],
            "tool_choice": choice if isinstance(choice, str | None) else choice.model_dump(),
            "voice": voice if isinstance(voice, str | None) else voice.id,
            "speed": output.speed,
        }
        new = {name: value for name, value in new.items() if value is not None}
        if given.max_output_tokens is not None:
            most = given.max_output_tokens
            new["max_output_tokens"] = None if most == "inf" else most
        if given.tools is not None:
            new["tools"] = tuple(one.model_dump(exclude_none=True) for one in given.tools)
        if output.format is not None:
            new["live_format"] = output.format.checked(f"{place}.audio.output.format")
        return replace(self, **new)


@dataclass(frozen=True)
class Hearing:
    """What the session does with what is heard, beside what the ear does."""

    told: bool = False  # whether the client wants to know what the user said
    creates: bool = True  # whether the end of a turn begins a response
    interrupts: bool = True  # whether speech ends a response
    eagerness: Eagerness | None = None  # of `semantic_vad`; None with `server_vad`

    @property
    def patience_s(self) -> float:
        """How long a turn that ends within a sentence may be continued before it is answered."""
        return 0.0 if self.eagerness is None else _PATIENCE_S[self.eagerness]

    def changed(self, given: InputFields) -> Hearing:
        """Return the settings with what the client's `session.audio.input` changes."""
        new: dict[str, Any] = {}
        if "transcription" in given.model_fields_set:
            new["told"] = given.transcription is not None
        if (turns := given.turn_detection) is not None:
            new["creates"] = turns.create_response is not False
            new["interrupts"] = turns.interrupt_response is not False
            semantic = turns.type == SEMANTIC
            new["eagerness"] = (turns.eagerness or "auto") if semantic else None
        return replace(self, **new)

    def shown(self, heard: dict[str, Any]) -> dict[str, Any]:
        """Return `session.audio.input`, given that of the ear's session."""
        turns = heard["turn_detection"]
        if turns and self.eagerness:
            turns = {"type": SEMANTIC, "eagerness": self.eagerness}
        answering = {"create_response": self.creates, "interrupt_response": self.interrupts}
        return {
            **heard,
            "transcription": heard["transcription"] if self.told else None,
            "turn_detection": turns and {**turns, **answering},
        }


@dataclass(frozen=True)
class Settings:
    """The settings in force."""

    id: str
    model: str  # the name by which the client asked for it
    chat_model: str  # that of the chat role
    answering: Answering
    hearing: Hearing

    def shown(self, heard: dict[str, Any]) -> dict[str, Any]:
        """Return OpenAI's session object; `heard` is `session.audio.input` of the ear's."""
        answering = self.answering
        output = {**answering.output_shown(), "speed": answering.speed}
        return {
            "id": self.id,
            "object": "realtime.session",
            "type": "realtime",
            "model": self.model,
            "output_modalities": [answering.modality],
            "instructions": answering.instructions,
            "tools": list(answering.tools),
            "tool_choice": answering.tool_choice,
            "max_output_tokens": answering.max_output_tokens or "inf",
            "truncation": "auto",
            "audio": {"input": self.hearing.shown(heard), "output": output},
        }
