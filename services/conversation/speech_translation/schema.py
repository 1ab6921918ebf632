"""What POST /v1/audio/speech-translations reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.errors import InvalidRequestError
from services.openai.translation import SpeechTranslationFields
from services.openai.unknown import read

if TYPE_CHECKING:
    from services.openai.forms import Form


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
