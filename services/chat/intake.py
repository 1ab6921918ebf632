"""Reads and checks a request's body before vLLM gets it.

vLLM accepts any field and drops those that it does not know. Other fields of OpenAI's API pass,
since SDKs send them routinely; those whose effect the answer would lack are refused, unless they
have their default.

vLLM validates on the event loop, and pydantic collects the errors of every member of every union:
one malformed item of /v1/responses has 237 errors, 2000 have 462,001 and take 15 s. Here the first
error ends the validation, and other requests get their turn in between.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.types import Receive

from services.chat import constraints
from services.chat.bounds import Bounds
from services.chat.trial import Trial
from services.errors import InvalidRequestError, shown
from services.openai.body import expect_json, until_hangup, whole
from services.openai.reading import ignore, invalid, refusal, sift

Models = tuple[type[BaseModel], ...]


_SMALL_BYTES: Final = 4096
_WHICH: Final = ": it depends on the model's context and BENTOVOX_CHAT__BODY_LIMIT_MIB"
_CALLING: Final = frozenset({"/v1/chat/completions", "/v1/responses"})
_FIELDS: Final = TypeAdapter(dict[str, Any])
_AT_ONCE: Final = 8
_TURN: Final = 32
_PLAIN: Final = frozenset({"str", "int", "float", "bool", "dict"})
"""How pydantic names members of a union that are not models."""

_SHARED: Final = frozenset(
    {"metadata", "moderation", "safety_identifier", "service_tier", "store", "user", "verbosity"}
    | {"prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"}
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


@dataclass(frozen=True)
class Intake:
    """What requests are checked with."""

    models: Mapping[str, Models]  # vLLM's, by path; the fields of other paths are not checked
    bounds: Bounds  # what one request may cost
    trial: Trial  # compiles constraints before the engine does

    async def take(self, scope: Any, receive: Receive) -> Receive:
        """Return a `receive` with the checked body for vLLM.

        Raises:
            UnsupportedMediaError: it is not JSON.
            TooLargeError: it is larger than the model's context allows.
            InvalidRequestError: it is malformed, exceeds a limit, or asks for what vLLM drops.
            OverloadedError: it takes more slots than became free in time.
            ClientGoneError: the client hung up.
        """
        expect_json(scope)
        raw = await whole(scope, receive, self.bounds.body_bytes, which=_WHICH)
        try:
            given = _FIELDS.validate_json(raw)
        except ValidationError as error:
            raise refusal(error) from error
        path: str = scope["path"]
        body = {name: value for name, value in given.items() if value is not None}
        models = self.models.get(path, ())
        refuse_lost(path, body)
        if models:
            ours = _declared(models) | _OPENAIS.get(path, frozenset())
            body = sift(body, ours, FOREIGN)
        bound = constraints.find(path, body, self.bounds)
        cost = self.bounds.cost(path, body)
        await refuse_first_fault(models, body, small=len(raw) <= _SMALL_BYTES)
        if bound:
            await until_hangup(receive, self.trial.check(bound))
        if cost > 1:
            await scope["bentovox.weigh"](cost)
        tools = body.get("tools")
        if path in _CALLING and isinstance(tools, list) and constraints.forces_a_call(body):
            body["tools"] = [_strict(path, tool) for tool in tools]
        elif len(body) == len(given):
            return _replay(raw, receive)
        return _replay(json.dumps(body).encode(), receive)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return an ASGI `receive` that returns the body once and then waits for the disconnect."""
    given = False

    async def replayed() -> Any:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replayed


def _strict(path: str, tool: dict[str, Any]) -> dict[str, Any]:
    """Return a tool with `strict` set, without which vLLM does not enforce its schema.

    Small models write `4000` where an object is wanted.
    """
    if tool.get("type", "function") != "function":
        return tool
    if path == "/v1/responses":
        return {**tool, "strict": True}
    return {**tool, "function": {**tool["function"], "strict": True}}


@cache
def _declared(models: Models) -> frozenset[str]:
    """Return the names and aliases of the fields that vLLM's models declare."""
    fields = [(name, field.alias) for model in models for name, field in model.model_fields.items()]
    return frozenset(name for names in fields for name in names if name)


def refuse_lost(path: str, body: Mapping[str, Any]) -> None:
    """Refuse a `body` that asks for what vLLM would drop."""
    for name, why in _REFUSED.get(path, {}).items():
        value = body.get(name)
        asks = value or (name in _ASKS_IF_EMPTY and value == {})
        if asks and not (name in _DEFAULTS and _DEFAULTS[name](value, body)):
            raise invalid(name, why, "unsupported_parameter")
    if body.get("service_tier", "auto") not in _TIERS:
        ignore("service_tier")  # a price class, which does not change the answer
    if path == "/v1/responses":
        for place, tool in constraints.tools_in(body):
            _refuse_hosted(tool, place)


def _refuse_hosted(tool: Mapping[str, Any], place: str) -> None:
    """Refuse a tool that OpenAI's servers run, and a custom tool whose input follows a grammar."""
    kind = tool.get("type")
    form = tool.get("format") if kind == "custom" else None
    if isinstance(form, dict) and form.get("type") == "grammar":
        why = 'the input of custom tools is free text here; accepted is {"type": "text"}'
        raise invalid(f"{place}.format", why, "unsupported_parameter")
    if kind == "web_search" and tool.get("external_web_access") is False:
        ignore("tools.web_search")  # cached pages of OpenAI's; Codex always offers it
    elif isinstance(kind, str) and kind not in _TOOLS:
        why = (
            f"{shown(kind)} is not run here; accepted are function, custom and namespace, "
            "whose calls you run yourself"
        )
        raise invalid(f"{place}.type", why, "unsupported_parameter")


async def refuse_first_fault(
    models: Sequence[type[BaseModel]], body: Mapping[str, Any], *, small: bool
) -> None:
    """Check that one of vLLM's `models` accepts each field of `body` and each item of its lists.

    A `small` body is first validated as a whole, which is quicker: nearly all are valid.
    InvalidRequestError if none does; `param` is the field or the item.
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
        # Fields' names, neither indices nor types.
        named = [
            part
            for part in map(str, faults[0]["loc"])
            if part.isidentifier() and part[0].islower() and part not in _PLAIN
        ]
        where = ".".join([place, *named])[:128]
        raise InvalidRequestError(f"{where}: {faults[0]['msg']}", param=place, code="invalid_value")


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
