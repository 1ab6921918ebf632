"""How what a client sent is refused, in OpenAI's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, get_args

from services.errors import InvalidRequestError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


def missing(field: str) -> InvalidRequestError:
    """Return the error for a field that must be there and is not."""
    return InvalidRequestError(
        f"missing required parameter: {field!r}", param=field, code="missing_required_parameter"
    )


_SHOWN_CHARACTERS: Final = 64
_NAME_CHARACTERS: Final = 256

# What pydantic puts in the place of an error for the members of a union.
_UNION: Final = ("constrained-str", "VoiceId", "str", "list[str]")
# pydantic's type of an error -> OpenAI's code
_CODES: Final = {
    "extra_forbidden": "unknown_parameter",
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


def refusal(
    error: ValidationError, model: type[BaseModel], what: str = "the body"
) -> InvalidRequestError:
    """Turn pydantic's first error into one sentence with the field, and what is accepted.

    `what` names the whole that `model` was read from; a fault that is in no field is its own.
    """
    first: Any = error.errors(include_url=False)[0]
    kind: str = first["type"]
    if kind == "json_invalid":
        return InvalidRequestError(
            f"{what} is not valid JSON: {first['ctx']['error']}", code="invalid_json"
        )
    fault: str = first["msg"][0].lower() + first["msg"][1:]
    if not first["loc"]:
        if kind == "string_unicode":  # the name of a field
            return InvalidRequestError(f"{what}: {fault}", code="invalid_value")
        return InvalidRequestError(f"{what} is not a JSON object", code="invalid_type")
    place = [str(part) for part in first["loc"] if part not in _UNION]
    field = ".".join(place) if place[0] != "voice" or place[1:] == ["id"] else "voice"
    field = field[:_NAME_CHARACTERS]
    if kind == "extra_forbidden":
        accepted = ", ".join(_at(first["loc"][:-1], model).model_fields)
        message = f"unknown parameter: {field!r}; accepted are {accepted}"
    elif kind == "missing":
        return missing(field)
    else:
        value = repr(first["input"])
        given = f" {value}" if len(value) <= _SHOWN_CHARACTERS else ""
        message = f"{field}{given}: {fault}"
    return InvalidRequestError(message, param=field, code=_CODES.get(kind, "invalid_value"))


def _at(place: tuple[str | int, ...], model: type[BaseModel]) -> type[BaseModel]:
    """Return the model of the object at `place` in what `model` reads; `model` for a union's."""
    inner = model
    for part in place:
        field = inner.model_fields.get(str(part))
        found = [] if field is None else _models(field.annotation)
        if len(found) != 1:
            return model
        inner = found[0]
    return inner


def _models(annotation: Any) -> list[Any]:
    if isinstance(annotation, type):
        return [annotation] if hasattr(annotation, "model_fields") else []
    return [model for part in get_args(annotation) for model in _models(part)]
