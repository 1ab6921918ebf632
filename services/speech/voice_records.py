"""The records of registered voices and consents, and their JSON files."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from services.errors import InvalidRequestError

_NAME_LIMIT: Final = 256

_log = logging.getLogger("bentovox.voices")


@dataclass(frozen=True)
class Consent:
    """Somebody's recorded consent to have their voice cloned.

    Attributes:
        id: `cons_` and 32 hexadecimal digits.
        name: given by the client; need not be unique.
        language: a tag, as given by the client.
        created_at: seconds since 1970.
    """

    id: str
    name: str
    language: str
    created_at: int


@dataclass(frozen=True)
class StoredVoice:
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

    id: str
    name: str
    consent_id: str | None
    text: str | None
    language: str | None
    duration_s: float
    created_at: int
    origin: str | None = None


Record = TypeVar("Record", Consent, StoredVoice)

_READERS: Final[dict[type[Any], TypeAdapter[Any]]] = {
    kind: TypeAdapter(kind) for kind in (Consent, StoredVoice)
}


def to_json(record: Consent | StoredVoice, more: dict[str, Any] | None = None) -> bytes:
    """Return the JSON file for `record`, with the fields of `more` added."""
    return json.dumps((more or {}) | asdict(record), ensure_ascii=False, indent=1).encode()


def from_json(kind: type[Record], item_id: str, data: bytes | None) -> Record | None:
    """Return the record in a file; None if there is no file or, with a warning, it is damaged."""
    if data is None:
        return None
    try:
        record: Record = _READERS[kind].validate_json(data)
    except ValidationError:
        _log.warning("the record of %s is damaged; it is ignored", item_id)
        return None
    return record


def in_order(records: list[Record]) -> list[Record]:
    """Return `records`, oldest first."""
    return sorted(records, key=lambda record: (record.created_at, record.id))


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


def check_text(text: str | None, param: str) -> None:
    """Check that `text` can be encoded.

    Raises:
        InvalidRequestError: it contains half a surrogate pair, which JSON allows.
    """
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"{param} is not valid Unicode text", param=param, code="invalid_value"
        ) from error
