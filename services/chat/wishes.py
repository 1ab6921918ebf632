"""Wishes that vLLM takes and forgets: refused in words, since the answer would not be it.

A field at its default is no wish: SDKs send those as a matter of course.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from services.errors import InvalidRequestError
from services.openai.unknown import ignore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_NOT_KEPT: Final = "no response is kept here; send the whole conversation as `input`"
_STRUCTURED: Final = "vLLM reads `structured_outputs` or `response_format` in its place"
_GUIDED: Final = {
    f"guided_{kind}": _STRUCTURED for kind in ("json", "regex", "choice", "grammar", "json_object")
}

_REFUSED: Final[dict[str, dict[str, str]]] = {
    "/v1/chat/completions": {
        "modalities": 'only ["text"] is answered; speech is POST /v1/audio/speech',
        "audio": "answers are text; speech is POST /v1/audio/speech",
        "web_search_options": "nothing here searches the web; offer a tool of your own in `tools`",
        "functions": "send `tools`, which took their place",
        "function_call": "send `tool_choice`, which took its place",
        "best_of": "only `n` answers are made, and all are returned",
        "prediction": "predicted outputs are not made use of here",
        "moderation": "nothing here moderates",
        **_GUIDED,
    },
    "/v1/completions": {"best_of": "only `n` answers are made, and all are returned", **_GUIDED},
    "/v1/responses": {
        "conversation": _NOT_KEPT,
        "previous_response_id": _NOT_KEPT,
        "background": "an answer is made while its client waits; nothing is kept for later",
        "prompt": "no prompt templates are kept here; send `instructions` and `input`",
        "context_management": "nothing is compacted here; send an `input` that the model can hold",
        "moderation": "nothing here moderates",
    },
}

_NO_WISH: Final[dict[str, Callable[[Any, Mapping[str, Any]], bool]]] = {
    "modalities": lambda value, _: value == ["text"],
    "function_call": lambda value, _: value in ("auto", "none"),
    "best_of": lambda value, body: value in (1, body.get("n")),
}
"""What is a default beside null, false and what is empty."""

_WISH_IF_EMPTY: Final = frozenset({"web_search_options"})
_TIERS: Final = ("auto", "default")

_TOOLS: Final = frozenset({"function", "custom", "namespace"})


def refuse_lost(path: str, body: Mapping[str, Any]) -> None:
    """Return unless `body` asks for what would be forgotten.

    Raises:
        InvalidRequestError: it does; `param` names the field.
    """
    for name, why in _REFUSED.get(path, {}).items():
        value = body.get(name)
        wished = value or (name in _WISH_IF_EMPTY and value == {})
        if wished and not (name in _NO_WISH and _NO_WISH[name](value, body)):
            raise InvalidRequestError(f"{name}: {why}", param=name, code="unsupported_parameter")
    if body.get("service_tier", "auto") not in _TIERS:
        ignore("service_tier")  # a price class: the answer is the same
    tools = body.get("tools")
    if path == "/v1/responses" and isinstance(tools, list):
        for index, tool in enumerate(tools):
            _refuse_hosted(tool, f"tools[{index}]")


def _refuse_hosted(tool: Any, place: str) -> None:
    """Refuse a tool that OpenAI's own servers would run, and input that none here is bound by."""
    kind = tool.get("type") if isinstance(tool, dict) else None
    if not isinstance(kind, str):
        return
    form = tool.get("format")
    if kind == "custom" and isinstance(form, dict) and form.get("type") == "grammar":
        raise InvalidRequestError(
            f"{place}.format.type 'grammar': the input of a custom tool is free text here; "
            'accepted is {"type": "text"}',
            param=f"{place}.format",
            code="unsupported_parameter",
        )
    if kind == "namespace":
        inner = tool.get("tools")
        for index, each in enumerate(inner if isinstance(inner, list) else []):
            _refuse_hosted(each, f"{place}.tools[{index}]")
    if kind in _TOOLS:
        return
    if kind == "web_search" and tool.get("external_web_access") is False:
        ignore("tools.web_search")  # offline pages of OpenAI's: Codex offers it in every request
        return
    raise InvalidRequestError(
        f"{place}.type {kind[:64]!r}: nothing here runs it; accepted are function, custom and "
        "namespace, whose calls you run yourself",
        param=f"{place}.type",
        code="unsupported_parameter",
    )
