"""The settings of a live translation, and how a client's `session.update` changes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from services.conversation.translation.languages import known_code
from services.errors import InvalidRequestError
from services.openai.conversation import TRANSLATES, TargetFields, TranslationSoundFields
from services.openai.reading import ignore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.openai.conversation import TranslationFields

TARGET: Final = "en"
"""The language to translate into where the client names none, as for audio/translations."""

OUTPUT: Final = "session.audio.output"


@dataclass(frozen=True)
class Settings:
    """The settings in force.

    Attributes:
        id: `sess_…`.
        model: the name by which the client asked for it.
        speech_model: that of the speech role.
        expires_at: when it ends at the latest, in Unix time.
        target: the code of the language to translate into.
        voice: None for one that suits the language.
        told: whether the client wants to know what was said.
    """

    id: str
    model: str
    speech_model: str
    expires_at: int
    target: str = TARGET
    voice: str | None = None
    told: bool = False

    def changed(self, given: TranslationFields) -> Settings:
        """Return the settings with everything that a client's object changes.

        Raises:
            InvalidRequestError: a language that is not known, or another model.
        """
        if given.model not in (None, self.model, TRANSLATES):
            raise InvalidRequestError(
                "session.model cannot change; name it in the URL",
                param="session.model",
                code="unsupported_value",
            )
        new: dict[str, Any] = {}
        audio = given.audio or TranslationSoundFields()
        if audio.input is not None and "transcription" in audio.input.model_fields_set:
            new["told"] = audio.input.transcription is not None
        if audio.input is not None and audio.input.noise_reduction is not None:
            ignore("session.audio.input.noise_reduction")
        output = audio.output or TargetFields()
        if output.language is not None:
            new["target"] = known_code(output.language, f"{OUTPUT}.language")
        if output.voice is not None:
            new["voice"] = output.voice if isinstance(output.voice, str) else output.voice.id
        return replace(self, **new)

    def shown(self, heard: Mapping[str, Any]) -> dict[str, Any]:
        """Return OpenAI's session object; `heard` is `session.audio.input` of the ear's."""
        transcription = heard["transcription"] if self.told else None
        return {
            "id": self.id,
            "type": "translation",
            "model": self.model,
            "expires_at": self.expires_at,
            "audio": {
                "input": {"transcription": transcription, "noise_reduction": None},
                "output": {"language": self.target, "voice": self.voice},
            },
        }
