"""The names that clients use for the one model that transcribes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.errors import InvalidRequestError
from services.openai.models import without_date

if TYPE_CHECKING:
    from services.openai.models import Models

_DIARIZING: Final = "-diarize"


def check_model(models: Models, name: str) -> None:
    """Raise unless a model is served under this name, or under this name without its date.

    Raises:
        NotFoundError: it is not (`model_not_found`).
        InvalidRequestError: the model tells speakers apart (`unsupported_value`).
    """
    named = without_date(name)
    if named in models.names or name in models.names:
        return
    if named.endswith(_DIARIZING):
        raise InvalidRequestError(
            f"{named} tells speakers apart, and this server does not; use "
            f"{named.removesuffix(_DIARIZING)} for text, or verbose_json for text with times",
            param="model",
            code="unsupported_value",
        )
    models.check(name)
