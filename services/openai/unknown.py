"""What a client sends that nobody here knows: strict where a wish would be lost, else lenient.

A name that is nearly one of ours is refused and the one that was meant is named: `temprature` must
not pass in silence. Any other unknown field is left out, and listed in the answer's
`x-ignored-fields` header and in the log, since clients send much that is meant for other servers.
`BENTOVOX_STRICT` refuses them all. A field that is null counts as not given
(docs/decisions/0026).
"""

from __future__ import annotations

import difflib
import json
import logging
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from services.errors import InvalidRequestError
from services.openai.bounded_json import check_size, parse
from services.openai.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

log = logging.getLogger("bentovox")

MOST_IGNORED: Final = 64
"""Of one request; with more it is refused."""

NEARLY: Final = 0.8
"""Likeness (difflib's ratio) from which on a name is taken for a slip of another."""

_SHOWN_CHARACTERS: Final = 64
_HEADER_BYTES: Final = 1024


@dataclass
class Ignored:
    """What one request has that is ignored; `strict` has it refused."""

    strict: bool = False
    names: list[str] = field(default_factory=list)

    def header(self) -> bytes:
        """Return the names as a header's value, percent-encoded where they are not plain."""
        shown = (quote(_shown(name), errors="replace") for name in self.names)
        return ", ".join(shown).encode()[:_HEADER_BYTES]


_ignored: ContextVar[Ignored | None] = ContextVar("ignored", default=None)


def watch(*, strict: bool) -> Ignored:
    """Gather what the request of this context has that is ignored."""
    ignored = Ignored(strict)
    _ignored.set(ignored)
    return ignored


def ignore(name: str) -> None:
    """Note that a field is ignored.

    Raises:
        InvalidRequestError: unknown fields are refused here, or there are too many.
    """
    ignored = _ignored.get()
    if ignored is None or name in ignored.names:
        return
    if ignored.strict:
        raise InvalidRequestError(
            f"{_shown(name)} is not read here, and BENTOVOX_STRICT refuses what is not",
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
    """Note that `name`, a field of the object at `place`, is none of `known`.

    Raises:
        InvalidRequestError: it is nearly one of them; or as for `ignore`.
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
    """Return `data`, a JSON document or its fields, as `model`, which forbids unknown fields.

    Raises:
        InvalidRequestError: malformed JSON, a field at fault, which `param` names, or as for
            `ignore_unknown`; `what` names the whole in the message.
    """
    try:
        if isinstance(data, bytes):
            check_size(data, what)
            return model.model_validate_json(data)
        return model.model_validate(data)
    except ValidationError as error:
        if error.errors(include_url=False, include_input=False)[0]["type"] == "json_invalid":
            raise refusal(error, what) from error
        first = error
    given = parse(data, what) if isinstance(data, bytes) else data
    kept = _without(given, first, model)
    if kept is None:
        raise refusal(first, what) from first
    try:
        if isinstance(data, bytes):
            return model.model_validate_json(json.dumps(kept))
        return model.model_validate(kept)
    except ValidationError as error:
        raise refusal(error, what) from error


def _without(given: Any, error: ValidationError, model: type[BaseModel]) -> Any:
    """Return `given` without what is unknown or null; None where there is nothing of that kind."""
    faults: list[Any] = error.errors(include_url=False)
    unknown = {fault["loc"]: fault for fault in faults if fault["type"] == "extra_forbidden"}
    null = {
        fault["loc"]
        for fault in faults
        if fault["type"] != "missing" and fault["loc"] and fault["input"] is None
    }
    if not unknown and not null:
        return None
    kept = given
    for loc in (*unknown, *null):
        path = _path(given, loc)
        if loc in unknown and loc not in null and _holds(kept, path):
            known = _model_at(loc[:-1], model).model_fields
            ignore_unknown(path[-1], known, place=".".join(map(str, path[:-1])))
        kept = _cut(kept, path)
    return kept


def _path(given: Any, loc: tuple[Any, ...]) -> list[Any]:
    """Return the keys that lead to the place `loc`, which names members of unions as well."""
    path: list[Any] = []
    node = given
    for part in loc:
        if (isinstance(node, dict) and part in node) or (
            isinstance(node, list) and isinstance(part, int)
        ):
            node = node[part]
            path.append(part)
    return path


def _holds(node: Any, path: list[Any]) -> bool:
    for part in path:
        if isinstance(node, dict) and part not in node:
            return False
        node = node[part]
    return bool(path)


def _cut(node: Any, path: list[Any]) -> Any:
    """Return a copy of `node` without the field at `path`; an item of a list stays."""
    if not path or (len(path) == 1 and isinstance(node, list)):
        return node
    if len(path) == 1:
        return {key: value for key, value in node.items() if key != path[0]}
    inner = _cut(node[path[0]], path[1:]) if _holds(node, path[:1]) else None
    if isinstance(node, list):
        return [inner if index == path[0] else value for index, value in enumerate(node)]
    return {**node, path[0]: inner} if path[0] in node else node


def _model_at(place: tuple[str | int, ...], model: type[BaseModel]) -> type[BaseModel]:
    """Return the model of the object at `place` in what `model` reads; `model` for a union's."""
    inner = model
    for part in place:
        field = inner.model_fields.get(str(part))
        if field is None:  # the name of a union's member, or an index
            continue
        found = _models(field.annotation)
        if len(found) != 1:
            return model
        inner = found[0]
    return inner


def _models(annotation: Any) -> list[Any]:
    if isinstance(annotation, type):
        return [annotation] if hasattr(annotation, "model_fields") else []
    return [model for part in get_args(annotation) for model in _models(part)]


def _shown(name: str) -> str:
    return name[:_SHOWN_CHARACTERS]
