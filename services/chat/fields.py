"""Refuses request fields that neither OpenAI's API nor vLLM's knows.

vLLM ignores unknown fields, so that a misspelt `temprature` passes in silence. Here it is a 400
that names the nearest field.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import pydantic_core

from services.errors import InvalidRequestError, UnsupportedMediaError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

OPENAI_FIELDS: dict[str, frozenset[str]] = {
    "/v1/chat/completions": frozenset(
        [
            "audio",
            "function_call",
            "functions",
            "metadata",
            "modalities",
            "moderation",
            "prediction",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "reasoning_effort",
            "safety_identifier",
            "service_tier",
            "store",
            "user",
            "verbosity",
            "web_search_options",
        ]
    ),
    "/v1/completions": frozenset({"best_of", "user"}),
    "/v1/responses": frozenset(
        [
            "background",
            "context_management",
            "conversation",
            "include",
            "instructions",
            "max_tool_calls",
            "metadata",
            "moderation",
            "prompt",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "reasoning",
            "safety_identifier",
            "service_tier",
            "store",
            "text",
            "user",
            "verbosity",
        ]
    ),
    "/v1/embeddings": frozenset({"user"}),
}
"""Fields of OpenAI's API (openai-python 3.52) that vLLM may not declare: they pass through, since
clients send them as a matter of course, and vLLM decides or ignores."""


async def body_with_known_fields(
    path: str,
    headers: list[tuple[bytes, bytes]],
    receive: Callable[[], Awaitable[Any]],
    known: Mapping[str, frozenset[str]],
) -> bytes:
    """Read a JSON body and return it unchanged.

    Args:
        path: the request's path; `known` maps paths to the fields that vLLM declares.
        headers: the request's headers, names in lower case.
        receive: ASGI receive.
        known: the fields of each path; a path that is not in it is not checked.

    Raises:
        UnsupportedMediaError: the content type is not JSON.
        InvalidRequestError: no JSON object, or an unknown field; `param` names it.
    """
    content_type = next((value for name, value in headers if name == b"content-type"), b"")
    if content_type.partition(b";")[0].strip().lower() != b"application/json":
        shown = content_type.decode("latin-1") or "none"
        raise UnsupportedMediaError(
            f"Content-Type is {shown}; this path reads application/json.", param="content-type"
        )
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        body += message.get("body", b"")
        more = message.get("more_body", False)
    try:
        parsed = pydantic_core.from_json(body)
    except ValueError as exc:
        raise InvalidRequestError(
            f"The body is not valid JSON: {exc}.", code="invalid_json"
        ) from exc
    if not isinstance(parsed, dict):
        raise InvalidRequestError("The body must be a JSON object.", code="invalid_json")
    if path in known:
        _refuse_unknown(parsed, known[path] | OPENAI_FIELDS.get(path, frozenset()))
    return body


def _refuse_unknown(parsed: Mapping[str, Any], known: frozenset[str]) -> None:
    for name in parsed:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise InvalidRequestError(
                f"Unknown parameter: '{name}'.{hint}", param=name, code="unknown_parameter"
            )
