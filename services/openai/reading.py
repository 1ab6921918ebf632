"""Reads what a client sent into models. Misspelt fields are refused, unknown ones reported.

A name that is nearly one of ours is refused with the right one in the message: `temprature` must
not be ignored silently. Any other unknown field is dropped and listed in the answer's
`x-ignored-fields` header and in the log, since clients send many fields that are meant for other
servers. `BENTOVOX_STRICT` refuses them all. A field that is null counts as not sent
(docs/decisions/0026).
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from services.errors import InvalidRequestError
from services.openai.bounded_json import check_size, parse
from services.openai.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Collection

log = logging.getLogger("bentovox")

MOST_IGNORED: Final = 64
"""A request with more is refused."""

NEARLY: Final = 0.8
"""The similarity (difflib's ratio) from which a name is taken for a misspelt one."""

_SHOWN_CHARACTERS: Final = 64
_HEADER_BYTES: Final = 1024


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
    """Note that a field is ignored.

    Raises:
        InvalidRequestError: `strict` is set, or there are too many.
    """
    ignored = _ignored.get()
    if ignored is None or name in ignored.names:
        return
    if ignored.strict:
        raise InvalidRequestError(
            f"{_shown(name)} is not supported, and BENTOVOX_STRICT refuses unknown fields",
            param=_shown(name),
            code="unknown_parameter",
        )
    if len(ignored.names) >= MOST_IGNORED:
        raise InvalidRequestError(
            f"over {MOST_IGNORED} unknown parameters, {_shown(name)!r} among them",
            param=_shown(name),
            code="unknown_parameter",
        )
    ignored.names.append(name)
    log.info("ignored: %s", quote(_shown(name), errors="replace"))


def ignore_unknown(name: str, known: Collection[str], *, place: str = "") -> None:
    """Note that `name`, a field of the object at `place`, is not among `known`.

    Raises:
        InvalidRequestError: it is nearly one of them, or as for `ignore`.
    """
    close = difflib.get_close_matches(name[:_SHOWN_CHARACTERS], known, n=1, cutoff=NEARLY)
    full = f"{place}.{name}" if place else name
    if close:
        raise InvalidRequestError(
            f"unknown parameter: {_shown(full)!r}; did you mean {close[0]!r}?",
            param=_shown(full),
            code="unknown_parameter",
        )
    ignore(full)


def sift(given: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return the fields of `given` that are in `known`.

    Raises:
        InvalidRequestError: as for `ignore_unknown`.
    """
    for name in given.keys() - set(known):
        ignore_unknown(name, known)
    return {name: value for name, value in given.items() if name in known}


Model = TypeVar("Model", bound=BaseModel)


def read(model: type[Model], data: bytes | Mapping[str, Any], what: str = "the body") -> Model:
    """Return `data`, a JSON document or its fields, as a `model` that forbids unknown fields.

    Raises:
        InvalidRequestError: malformed JSON, an invalid field, which is `param`, or as for
            `ignore_unknown`; the message calls the document `what`.
    """
    try:
        if isinstance(data, bytes):
            check_size(data, what)
            return model.model_validate_json(data)
        return model.model_validate(data)
    except ValidationError as error:
        if not error.errors(include_url=False, include_input=False)[0]["loc"]:
            raise refusal(error, what) from error  # not a JSON object at all
        first = error
    given = parse(data, what) if isinstance(data, bytes) else data
    kept = _known(given, model)
    if kept == given:
        raise refusal(first, what) from first
    try:
        if isinstance(data, bytes):
            return model.model_validate_json(json.dumps(kept))
        return model.model_validate(kept)
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
