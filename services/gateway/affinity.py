"""Which requests belong together: backends cache prompts and voices."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from services.openai.body import header

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CHARACTERS: Final = 2048
"""Of a prompt's beginning: a system prompt, or a conversation's first user message."""


class _Body(BaseModel):
    """The fields of a JSON body that affinity depends on; parsed in Rust."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    messages: Any = None
    prompt: Any = None
    input: Any = None
    instructions: Any = None
    voice: Any = None


def affinity_of(scope: Any, content_type: bytes, body: Sequence[bytes]) -> str | None:
    """Return a text that is the same for requests that share a cache; None if there is none.

    It is the header `x-session-id`, else for speech the voice, else the beginning of the prompt up
    to the first user message.
    """
    if session := header(scope, b"x-session-id"):
        return session.decode("latin-1")
    if not content_type.lower().startswith(b"application/json"):
        return None
    try:
        asked = _Body.model_validate_json(b"".join(body))
    except ValidationError:
        return None  # the backend reports what is wrong
    if asked.voice is not None:
        return json.dumps(asked.voice)[:_CHARACTERS]
    prompt = (asked.messages, asked.instructions, asked.prompt, asked.input)
    return "\n".join(_texts(prompt))[:_CHARACTERS] or None


def _texts(part: Any) -> Iterator[str]:
    """Yield the texts up to the first user message."""
    if isinstance(part, str):
        yield part[:_CHARACTERS]
    elif isinstance(part, dict):
        yield from _texts(part.get("content", part.get("text")))
    elif isinstance(part, list | tuple):
        for one in part:
            yield from _texts(one)
            if isinstance(one, dict) and one.get("role") == "user":
                break
