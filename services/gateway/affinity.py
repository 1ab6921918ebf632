"""Which requests belong together: backends cache prompts and voices."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json

from services.openai.body import header

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CHARACTERS: Final = 2048
"""Of a prompt's beginning: a system prompt, or a conversation's first user message."""

_READ_BYTES: Final = 64 * 1024
"""How much of a body is read, apart from images: all 16 MiB could take the event loop seconds."""

_IMAGE: Final = b";base64,"


def affinity_of(scope: Any, content_type: bytes, body: Sequence[bytes]) -> str | None:
    """Return a text that is the same for requests that share a cache; None if there is none.

    It is the header `x-session-id`, else for speech the voice, else the beginning of the prompt up
    to the first user message. Of a long body only the beginning counts.
    """
    if session := header(scope, b"x-session-id"):
        return session.decode("latin-1")
    if not content_type.lower().startswith(b"application/json"):
        return None
    try:
        asked = from_json(_beginning(b"".join(body)), allow_partial="trailing-strings")
    except ValueError:
        return None  # the backend reports what is wrong
    if not isinstance(asked, dict):
        return None
    if (voice := asked.get("voice")) is not None:
        return json.dumps(voice)[:_CHARACTERS]
    prompt = [asked.get(name) for name in ("messages", "instructions", "prompt", "input")]
    return "\n".join(_texts(prompt))[:_CHARACTERS] or None


def _beginning(body: bytes) -> bytes:
    """Return the first bytes of a body without its images, cut between two characters."""
    if len(body) <= _READ_BYTES:
        return body
    kept, at = bytearray(), 0
    while (room := _READ_BYTES - len(kept)) > 0:
        image = body.find(_IMAGE, at, at + room)
        if image < 0:
            kept += body[at : at + room]
            break
        kept += body[at : image + len(_IMAGE)]
        at = body.find(b'"', image)
        if at < 0:
            break
    return kept.decode(errors="ignore").encode()


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
