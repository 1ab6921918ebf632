"""Reads what a client sent into models. Misspelt fields are refused, unknown ones reported.

A name that is nearly one of ours is refused with the right one in the message: `temprature` must
not be ignored silently. Any other unknown field is dropped and listed in the answer's
`x-ignored-fields` header and in the log, since clients send many fields that are meant for other
servers. `BENTOVOX_STRICT` refuses them all. A field that is null counts as not sent
(docs/decisions/0026).

The number of names and items in JSON is bounded before it is parsed: a megabyte of text is parsed
in a millisecond; a megabyte of empty lists or unknown names would block the event loop for seconds.
"""

from __future__ import annotations

import difflib
import json
import logging
import re
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Final, TypeVar, get_args
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from services.errors import InvalidRequestError

log = logging.getLogger("bentovox")

MOST_IGNORED: Final = 64
"""A request with more is refused."""

NEARLY: Final = 0.8
"""The similarity (difflib's ratio) from which a name is taken for a misspelt one."""

_SHOWN_CHARACTERS: Final = 64
_HEADER_BYTES: Final = 1024


class Fields(BaseModel):
    """What a client sends as JSON; types are strict: a speed of "1.0" is refused."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class LaxFields(Fields):
    """What comes as a form, or as if it did: numbers may be text."""

    model_config = ConfigDict(strict=False)


@dataclass
class Ignored:
    """The ignored fields of a request; with `strict` they are refused."""

    strict: bool = False
    names: list[str] = field(default_factory=list)

    def header(self) -> bytes:
        """Return the names as a header's value, percent-encoded where needed."""
        shown = (quote(_shown(name), errors="replace") for name in self.names)
        return ", ".join(shown).encode()[:_HEADER_BYTES]


_ignored: ContextVar[Ignored | None] = ContextVar("ignored", default=None)


def watch(*, strict: bool) -> Ignored:
    """Collect the ignored fields of the request that is handled in this context."""
    ignored = Ignored(strict)
    _ignored.set(ignored)
    return ignored


def ignore(name: str) -> None:
    """Note that a field is ignored; InvalidRequestError if `strict`, or if there are too many."""
    ignored = _ignored.get()
    if ignored is None or name in ignored.names:
        return
    short = _shown(name)
    if ignored.strict:
        raise _unknown(
            short, f"{short} is not supported, and BENTOVOX_STRICT refuses unknown fields"
        )
    if len(ignored.names) >= MOST_IGNORED:
        raise _unknown(short, f"over {MOST_IGNORED} unknown parameters, {short!r} among them")
    ignored.names.append(name)
    log.info("ignored: %s", quote(short, errors="replace"))


def ignore_unknown(
    name: str, known: Collection[str], *, foreign: Collection[str] = (), place: str = ""
) -> None:
    """Note that `name`, a field of the object at `place`, is not among `known`.

    InvalidRequestError if it is nearly one of them and not `foreign`, or as for `ignore`.
    """
    full = f"{place}.{name}" if place else name
    near: list[str] = []
    if name not in foreign:
        near = difflib.get_close_matches(_shown(name), known, n=1, cutoff=NEARLY)
    if near:
        short = _shown(full)
        raise _unknown(short, f"unknown parameter: {short!r}; did you mean {near[0]!r}?")
    ignore(full)


def _unknown(name: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(message, param=name, code="unknown_parameter")


def sift(
    given: Mapping[str, Any], known: Collection[str], foreign: Collection[str] = ()
) -> dict[str, Any]:
    """Return the fields of `given` that are in `known`; the others as for `ignore_unknown`."""
    for name in (name for name in given if name not in known):
        ignore_unknown(name, known, foreign=foreign)
    return {name: value for name, value in given.items() if name in known}


Model = TypeVar("Model", bound=BaseModel)


def read(model: type[Model], data: bytes | Mapping[str, Any], what: str = "the body") -> Model:
    """Return `data`, a JSON document or its fields, as a `model` that forbids unknown fields.

    InvalidRequestError for malformed JSON, for an invalid field, which is `param`, or as for
    `ignore_unknown`; the message calls the document `what`.
    """
    try:  # most have no field that is unknown
        if not isinstance(data, bytes):
            return model.model_validate(data)
        check_size(data, what)
        return model.model_validate_json(data)
    except ValidationError as error:
        if isinstance(data, bytes) and not error.errors(include_url=False)[0]["loc"]:
            raise refusal(error, what) from error
    try:
        if not isinstance(data, bytes):
            return model.model_validate(_known(data, model))
        # As JSON: a tuple is a list there, which pydantic refuses elsewhere if it is strict.
        return model.model_validate_json(json.dumps(_known(parse_object(data, what), model)))
    except ValidationError as error:
        raise refusal(error, what) from error


def _known(given: Mapping[str, Any], model: type[BaseModel], place: str = "") -> dict[str, Any]:
    """Return the fields of `given` that `model` has, without nulls that it does not accept.

    `place` is the path of `given` in the body.
    """
    kept: dict[str, Any] = {}
    for name, value in given.items():
        field = model.model_fields.get(name)
        if field is None:
            if value is not None:
                ignore_unknown(name, model.model_fields, place=place)
            continue
        kinds = get_args(field.annotation) or (field.annotation,)
        if value is None and not {NoneType, object, Any}.intersection(kinds):
            continue
        inner = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
        if inner is not None and isinstance(value, Mapping):
            value = _known(value, inner, f"{place}.{name}" if place else name)  # noqa: PLW2901
        kept[name] = value
    return kept


def _shown(name: str) -> str:
    return name[:_SHOWN_CHARACTERS]


# Bounded JSON

MOST_NAMES: Final = 10_000
MOST_MARKS: Final = 200_000

_NAME: Final = re.compile(rb'"\s*:')
_MARKS: Final = (b'"', b",", b"[", b"{")


def check_size(data: bytes | str, what: str) -> None:
    """Check that the document has no more names or items than any request needs.

    Punctuation inside strings counts as well: the bounds are far above what a text has.
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


def parse_object(data: bytes | str, what: str) -> dict[str, Any]:
    """Return a JSON object's fields; InvalidRequestError if it is none, malformed or too much."""
    check_size(data, what)
    try:
        fields = json.loads(data)
    except RecursionError as error:
        raise InvalidRequestError(f"{what} is nested too deeply", code="invalid_json") from error
    except ValueError as error:
        raise InvalidRequestError(
            f"{what} is not valid JSON: {error}", code="invalid_json"
        ) from error
    if not isinstance(fields, dict):
        raise InvalidRequestError(f"{what} is not a JSON object", code="invalid_type")
    return fields


# Errors for invalid fields, with OpenAI's codes


def invalid(field: str, why: str, code: str = "invalid_value") -> InvalidRequestError:
    """Return the error for a field, with the reason."""
    return InvalidRequestError(f"{field}: {why}", param=field, code=code)


def missing(field: str, what: str = "") -> InvalidRequestError:
    """Return the error for a missing field; `what` ends the sentence."""
    return InvalidRequestError(
        f"missing required parameter: {field!r}{what}",
        param=field,
        code="missing_required_parameter",
    )


# How pydantic names the members of a union in the location of an error.
_UNION: Final = re.compile(
    r"constrained-\w+|VoiceId|ChoiceFields|str|int|list\[str\]|literal\[.*\]"
)
# pydantic's type of an error -> OpenAI's code
_CODES: Final = {
    "missing": "missing_required_parameter",
    "string_too_long": "string_above_max_length",
    "string_too_short": "string_below_min_length",
    "greater_than_equal": "decimal_below_min_value",
    "less_than_equal": "decimal_above_max_value",
}


_OF_TYPE: Final = re.compile(r"(string|float|int|bool)_(type|parsing)|model(_attributes)?_type")


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
        return InvalidRequestError(f"{what} is not a JSON object", code="invalid_type")
    place = [str(part) for part in first["loc"] if not _UNION.fullmatch(str(part))]
    field = ".".join(place) if place[0] != "voice" or place[1:] == ["id"] else "voice"
    field = field[:_SHOWN_CHARACTERS]
    if kind == "missing":
        return missing(field)
    return InvalidRequestError(
        f"{field}{_given(first['input'])}: {fault}",
        param=field,
        code="invalid_type" if _OF_TYPE.fullmatch(kind) else _CODES.get(kind, "invalid_value"),
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
