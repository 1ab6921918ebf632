"""Which fields of a request are known, which are ignored, and which are refused with a reason.

vLLM accepts any field and drops those that it does not know. Other fields of OpenAI's API pass,
since SDKs send them routinely; those whose effect the answer would lack are refused, unless they
have their default.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from services.errors import InvalidRequestError, shown
from services.openai.reading import ignore, sift
from services.openai.refusals import invalid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic import BaseModel

    Models = tuple[type[BaseModel], ...]

_SHARED: Final = frozenset(
    {
        "metadata",
        "moderation",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)
_OPENAIS: Final[dict[str, frozenset[str]]] = {
    "/v1/chat/completions": _SHARED
    | {"audio", "function_call", "functions", "modalities", "prediction", "reasoning_effort"}
    | {"web_search_options"},
    "/v1/completions": frozenset({"best_of", "user"}),
    "/v1/responses": _SHARED
    | {"client_metadata", "context_management", "conversation", "include", "stream_options"},
    "/v1/embeddings": frozenset({"user"}),
}
"""From openai-python 3.57, and what OpenAI's Codex sends; vLLM declares most others."""

FOREIGN: Final = frozenset(
    {"models", "reasoning_format", "repetition_penalty_range", "thinking_budget", "top_a"}
)
"""Fields of other servers, which are ignored and reported however similar they are to ours."""

_NOT_KEPT: Final = "no response is kept here; send the whole conversation as `input`"
_ALL_RETURNED: Final = "only `n` answers are made, and all are returned"
_STRUCTURED: Final = "send `structured_outputs` or `response_format` instead"
_GUIDED: Final = {
    f"guided_{kind}": _STRUCTURED for kind in ("json", "regex", "choice", "grammar", "json_object")
}

_REFUSED: Final[dict[str, dict[str, str]]] = {
    "/v1/chat/completions": {
        "modalities": 'only ["text"] is answered; speech is POST /v1/audio/speech',
        "audio": "answers are text; speech is POST /v1/audio/speech",
        "web_search_options": "web search is not supported; offer your own tool in `tools`",
        "functions": "send `tools`, which replaced them",
        "function_call": "send `tool_choice`, which replaced it",
        "best_of": _ALL_RETURNED,
        "prediction": "predicted outputs are not supported",
        "moderation": "moderation is not supported",
        **_GUIDED,
    },
    "/v1/completions": {"best_of": _ALL_RETURNED, **_GUIDED},
    "/v1/responses": {
        "conversation": _NOT_KEPT,
        "previous_response_id": _NOT_KEPT,
        "background": "answers are made while the client waits; none is kept for later",
        "prompt": "no prompt templates are kept here; send `instructions` and `input`",
        "context_management": "inputs are not compacted; send one that fits in the model's context",
        "moderation": "moderation is not supported",
    },
}
_DEFAULTS: Final[dict[str, Callable[[Any, Mapping[str, Any]], bool]]] = {
    "modalities": lambda value, _: value == ["text"],
    "function_call": lambda value, _: value in ("auto", "none"),
    "best_of": lambda value, body: value in (1, body.get("n")),
}
"""Defaults other than null, false and empty."""

_ASKS_IF_EMPTY: Final = frozenset({"web_search_options"})
_TIERS: Final = ("auto", "default")
_TOOLS: Final = frozenset({"function", "custom", "namespace"})


def known(path: str, models: Models, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the known fields of `body`; see `services.openai.reading`."""
    ours = _declared(models) | _OPENAIS.get(path, frozenset())
    foreign = body.keys() & (FOREIGN - ours)
    for name in sorted(foreign):
        ignore(name)
    return sift({name: value for name, value in body.items() if name not in foreign}, ours)


@cache
def _declared(models: Models) -> frozenset[str]:
    """Return the names and aliases of the fields that vLLM's models declare."""
    fields = [(name, field.alias) for model in models for name, field in model.model_fields.items()]
    return frozenset(name for names in fields for name in names if name)


def refuse_lost(path: str, body: Mapping[str, Any]) -> None:
    """Check that `body` asks for nothing that vLLM would drop.

    Raises:
        InvalidRequestError: it does; `param` is the field.
    """
    for name, why in _REFUSED.get(path, {}).items():
        value = body.get(name)
        asks = value or (name in _ASKS_IF_EMPTY and value == {})
        if asks and not (name in _DEFAULTS and _DEFAULTS[name](value, body)):
            raise invalid(name, why, "unsupported_parameter")
    if body.get("service_tier", "auto") not in _TIERS:
        ignore("service_tier")  # a price class, which does not change the answer
    if path == "/v1/responses":
        _refuse_hosted(body.get("tools"), "tools")


def _refuse_hosted(tools: Any, place: str) -> None:
    """Refuse tools that OpenAI's servers run, and custom tools whose input follows a grammar."""
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        kind = tool.get("type") if isinstance(tool, dict) else None
        here = f"{place}[{index}]"
        form = tool.get("format") if kind == "custom" else None
        if isinstance(form, dict) and form.get("type") == "grammar":
            why = 'the input of custom tools is free text here; accepted is {"type": "text"}'
            raise invalid(f"{here}.format", why, "unsupported_parameter")
        if kind == "namespace":
            _refuse_hosted(tool.get("tools"), f"{here}.tools")
        elif kind == "web_search" and tool.get("external_web_access") is False:
            ignore("tools.web_search")  # cached pages of OpenAI's; Codex always offers it
        elif isinstance(kind, str) and kind not in _TOOLS:
            why = (
                f"{shown(kind)} is not run here; accepted are function, custom and namespace, "
                "whose calls you run yourself"
            )
            raise invalid(f"{here}.type", why, "unsupported_parameter")


_AT_ONCE: Final = 8
_TURN: Final = 32
_PLAIN: Final = frozenset({"str", "int", "float", "bool", "dict"})
"""How pydantic names members of a union that are not models."""


async def refuse_first_fault(
    models: Sequence[type[BaseModel]], body: Mapping[str, Any], *, small: bool
) -> None:
    """Check that one of vLLM's `models` accepts each field of `body` and each item of its lists.

    A `small` body is first validated as a whole, which is quicker: nearly all are valid.

    Raises:
        InvalidRequestError: none does; `param` is the field or the item.
    """
    if small and any(_fault(model, body) is None for model in models):
        return
    plain = {name: value for name, value in body.items() if not isinstance(value, list)}
    if all(_fault(model, plain) for model in models):
        for name, value in plain.items():
            _refuse(name, [_fault(model, {name: value}) for model in _with(name, models)])
    for name, value in body.items():
        if isinstance(value, list):
            await _check_list(_with(name, models), name, value)


def _with(name: str, models: Sequence[type[BaseModel]]) -> Sequence[type[BaseModel]]:
    return [model for model in models if name in model.model_fields]


async def _check_list(models: Sequence[type[BaseModel]], name: str, items: list[Any]) -> None:
    if all(type(item) is int and item >= 0 for item in items):
        return  # tokens
    for begin in range(0, len(items), _AT_ONCE):
        if begin % _TURN == 0:
            await asyncio.sleep(0)
        some = items[begin : begin + _AT_ONCE]
        if all(_fault(model, {name: some}) for model in models):
            for index, item in enumerate(some, begin):
                faults = [_fault(model, {name: [item]}, item=True) for model in models]
                _refuse(f"{name}[{index}]", faults)


def _refuse(place: str, faults: Sequence[Any]) -> None:
    """Raise the first fault if every model has one."""
    if faults and all(faults):
        named = [part for part in map(str, faults[0]["loc"]) if _is_field(part)]
        where = ".".join([place, *named])[:128]
        raise InvalidRequestError(f"{where}: {faults[0]['msg']}", param=place, code="invalid_value")


def _is_field(part: str) -> bool:
    """Return whether a part of a location is a field's name: neither an index nor a type."""
    return part.isidentifier() and part[0].islower() and part not in _PLAIN


def _fault(model: type[BaseModel], fields: Mapping[str, Any], *, item: bool = False) -> Any:
    """Return the first fault of `fields`; with `item`, preferably one within their first item.

    Faults of missing fields do not count.
    """
    try:
        model.model_validate(dict(fields))
    except ValidationError as error:
        faults: Sequence[Any] = error.errors(
            include_url=False, include_context=False, include_input=False
        )
        own = [fault for fault in faults if fault["loc"] and fault["loc"][0] in fields]
        inner = [fault for fault in own if item and 0 in fault["loc"]]
        first = next(iter(inner or own), None)
        return first and {**first, "loc": first["loc"][1:]}
    except Exception:  # noqa: BLE001  a validator that needs other fields: left to vLLM
        return None
    return None
