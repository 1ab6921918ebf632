"""The model names that clients use, all of them for the one model that hears."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.errors import InvalidRequestError
from services.openai.models import without_date

if TYPE_CHECKING:
    from services.openai.models import Models

_SPEAKERS: Final = "-diarize"
_BY_CLIENT: Final = ("gpt-realtime-whisper", "gpt-live-transcribe")


def check_model(models: Models, name: str) -> None:
    """Raise unless a model is served: by its name, or by that and a date.

    Raises:
        NotFoundError: it is not (`model_not_found`).
        InvalidRequestError: a model that tells speakers apart (`unsupported_value`).
    """
    named = without_date(name)
    if named in models.names or name in models.names:
        return
    if named.endswith(_SPEAKERS):
        raise InvalidRequestError(
            f"{named} tells speakers apart, and this server does not; use "
            f"{named.removesuffix(_SPEAKERS)} for text, or verbose_json for text with times",
            param="model",
            code="unsupported_value",
        )
    models.check(name)


def commits(name: str) -> bool:
    """Return whether a model's clients commit turns themselves, unless they say otherwise.

    OpenAI finds no turns for these; LiveKit and Pipecat then send no `turn_detection` at all.
    """
    return name.startswith(_BY_CLIENT)
