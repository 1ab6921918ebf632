"""Which fields of a request are known, which are ignored, and which are refused with a reason.

vLLM accepts any field and drops those that it does not know. Other fields of OpenAI's API pass,
since SDKs send them routinely; those whose effect the answer would lack are refused, unless they
have their default.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from services.errors import shown
from services.openai.reading import ignore, invalid, sift

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
