"""JSON from clients: its number of names and items is bounded before it is parsed.

A megabyte of text is parsed in a millisecond; a megabyte of empty lists or unknown names would
block the event loop for seconds.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from services.errors import InvalidRequestError

MOST_NAMES: Final = 10_000
MOST_MARKS: Final = 200_000

_NAME: Final = re.compile(rb'"\s*:')
_MARKS: Final = (b'"', b",", b"[", b"{")


def check_size(data: bytes | str, what: str) -> None:
    """Check that the document has no more names or items than any request needs.

    Punctuation inside strings counts as well: the bounds are far above what a text has.

    Raises:
        InvalidRequestError: it has more (`too_many_fields`).
    """
    if len(data) < MOST_NAMES:
        return
    raw = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
    marks = sum(raw.count(mark) for mark in _MARKS)
    if marks > MOST_MARKS or sum(1 for _ in _NAME.finditer(raw)) > MOST_NAMES:
        raise InvalidRequestError(
            f"{what} has over {MOST_NAMES} names or {MOST_MARKS} marks of JSON, more than any "
            "valid request here",
            code="too_many_fields",
        )


def parse(data: bytes | str, what: str) -> Any:
    """Return the value of a JSON document.

    Raises:
        InvalidRequestError: it is malformed, nested too deeply, or over the bounds.
    """
    check_size(data, what)
    try:
        return json.loads(data)
    except RecursionError as error:
        raise InvalidRequestError(f"{what} is nested too deeply", code="invalid_json") from error
    except ValueError as error:
        raise InvalidRequestError(
            f"{what} is not valid JSON: {error}", code="invalid_json"
        ) from error


def parse_object(data: bytes | str, what: str) -> dict[str, Any]:
    """Return the fields of a JSON object.

    Raises:
        InvalidRequestError: as for `parse`, or it is not an object.
    """
    fields = parse(data, what)
    if not isinstance(fields, dict):
        raise InvalidRequestError(f"{what} is not a JSON object", code="invalid_type")
    return fields
