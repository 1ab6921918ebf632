"""What is known of a registered voice and of a consent, and how it stands in a file."""

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
    """Somebody's recorded word that their voice may be used.

    Attributes:
        id: `cons_` and 32 hexadecimal digits.
        name: what the client calls it; others may have the same.
        language: a tag, as given.
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
        name: what the client calls it; no other voice has the same.
        consent_id: of the consent that it was made with.
        text: what is said in its recording; None when not known.
        language: a tag, as given.
        duration_s: of its recording.
        created_at: seconds since 1970.
    """

    id: str
    name: str
    consent_id: str
    text: str | None
    language: str | None
    duration_s: float
    created_at: int


Record = TypeVar("Record", Consent, StoredVoice)

_READERS: Final[dict[type[Any], TypeAdapter[Any]]] = {
    kind: TypeAdapter(kind) for kind in (Consent, StoredVoice)
}


def to_json(record: Consent | StoredVoice, more: dict[str, Any] | None = None) -> bytes:
    """Return a file's content that says what `record` does, and `more`."""
    return json.dumps((more or {}) | asdict(record), ensure_ascii=False, indent=1).encode()


def from_json(kind: type[Record], item_id: str, data: bytes | None) -> Record | None:
    """Return what a file says; None where there is none, or, with a line in the log, no sense."""
    if data is None:
        return None
    try:
        record: Record = _READERS[kind].validate_json(data)
    except ValidationError:
        _log.warning("what is written of %s is damaged; it is passed over", item_id)
        return None
    return record


def in_order(records: list[Record]) -> list[Record]:
    """Return `records`, the oldest first."""
    return sorted(records, key=lambda record: (record.created_at, record.id))


def check_name(name: str) -> None:
    """Raise unless a voice or a consent can be called `name`.

    Raises:
        InvalidRequestError: empty, too long, or not what a person can read (`invalid_value`).
    """
    if not 1 <= len(name) <= _NAME_LIMIT or not name.isprintable() or name != name.strip():
        raise InvalidRequestError(
            f"name must be 1 to {_NAME_LIMIT} printable characters, none of them a space at "
            "its start or end",
            param="name",
            code="invalid_value",
        )


def check_text(text: str | None, param: str) -> None:
    """Raise unless `text` can be written down.

    Raises:
        InvalidRequestError: it holds half of a surrogate pair, which JSON lets through.
    """
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"{param} is not valid Unicode text", param=param, code="invalid_value"
        ) from error
