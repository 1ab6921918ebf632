"""The records of registered voices and consents: each is a JSON file."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

from services.errors import InvalidRequestError

_NAME_LIMIT: Final = 256


class Consent(BaseModel):
    """Somebody's recorded consent to have their voice cloned.

    Attributes:
        id: `cons_` and 32 hexadecimal digits.
        name: given by the client; need not be unique.
        language: a tag, as given by the client.
        created_at: seconds since 1970.
        media_type: of the recording, as given by the client.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    language: str
    created_at: int
    media_type: str


class StoredVoice(BaseModel):
    """A registered voice.

    Attributes:
        id: `voice_` and 32 hexadecimal digits.
        name: given by the client; unique among voices.
        consent_id: of the consent that it was registered with; None for a built-in voice.
        text: the transcript of its recording; None if unknown.
        language: a tag, as given by the client.
        duration_s: of its recording.
        created_at: seconds since 1970.
        origin: what spoke a built-in voice; None if a person did.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    consent_id: str | None
    text: str | None
    language: str | None
    duration_s: float
    created_at: int
    origin: str | None = None


def check_name(name: str) -> None:
    """Check the name of a voice or consent.

    Raises:
        InvalidRequestError: empty, too long, or not printable (`invalid_value`).
    """
    if not 1 <= len(name) <= _NAME_LIMIT or not name.isprintable() or name != name.strip():
        raise InvalidRequestError(
            f"name must be 1 to {_NAME_LIMIT} printable characters, without a space at the "
            "start or end",
            param="name",
            code="invalid_value",
        )
