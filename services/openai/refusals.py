"""Errors for invalid fields, with OpenAI's codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from services.errors import InvalidRequestError

if TYPE_CHECKING:
    from pydantic import ValidationError


def invalid(field: str, why: str, code: str = "invalid_value") -> InvalidRequestError:
    """Return the error for a field, with the reason."""
    return InvalidRequestError(f"{field}: {why}", param=field, code=code)


def missing(field: str) -> InvalidRequestError:
    """Return the error for a missing field."""
    return InvalidRequestError(
        f"missing required parameter: {field!r}", param=field, code="missing_required_parameter"
    )


_SHOWN_CHARACTERS: Final = 64
_NAME_CHARACTERS: Final = 64

# How pydantic names the members of a union in the location of an error.
_UNION: Final = ("constrained-str", "VoiceId", "str", "list[str]")
# pydantic's type of an error -> OpenAI's code
_CODES: Final = {
    "missing": "missing_required_parameter",
    "string_too_long": "string_above_max_length",
    "string_too_short": "string_below_min_length",
    "greater_than_equal": "decimal_below_min_value",
    "less_than_equal": "decimal_above_max_value",
    "string_type": "invalid_type",
    "float_type": "invalid_type",
    "int_type": "invalid_type",
    "bool_type": "invalid_type",
    "float_parsing": "invalid_type",
    "int_parsing": "invalid_type",
    "bool_parsing": "invalid_type",
    "model_type": "invalid_type",
    "model_attributes_type": "invalid_type",
}


def refusal(error: ValidationError, what: str = "the body") -> InvalidRequestError:
    """Turn pydantic's first error into a sentence with the field and what is accepted.

    `what` is named if the error is in no field.
    """
    first: Any = error.errors(include_url=False)[0]
    kind: str = first["type"]
    if kind == "json_invalid":
        return InvalidRequestError(
            f"{what} is not valid JSON: {first['ctx']['error']}", code="invalid_json"
        )
    fault: str = first["msg"][0].lower() + first["msg"][1:]
    if not first["loc"]:
        if kind == "string_unicode":  # in the name of a field
            return InvalidRequestError(f"{what}: {fault}", code="invalid_value")
        return InvalidRequestError(f"{what} is not a JSON object", code="invalid_type")
    place = [str(part) for part in first["loc"] if part not in _UNION]
    field = ".".join(place) if place[0] != "voice" or place[1:] == ["id"] else "voice"
    field = field[:_NAME_CHARACTERS]
    if kind == "missing":
        return missing(field)
    return InvalidRequestError(
        f"{field}{_given(first['input'])}: {fault}",
        param=field,
        code=_CODES.get(kind, "invalid_value"),
    )


def _given(value: object) -> str:
    """Return a small value as text, and nothing for a large one."""
    if isinstance(value, str):
        shown = len(value) <= _SHOWN_CHARACTERS
    elif isinstance(value, int):
        shown = value.bit_length() <= _SHOWN_CHARACTERS
    else:
        shown = isinstance(value, float)
    return f" {value!r}" if shown else ""
