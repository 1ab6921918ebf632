"""What the gateway reads of a body: one field, or which requests belong together.

The field is the model, or an API key. Related requests go to the same backend, which has their
prompt or voice cached.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from services.openai.body import header
from services.openai.forms import parser_of
from services.openai.reading import refusal

_NAME_BYTES: Final = 1024
_MOST_PAIRS: Final = 1024  # in a form; no form here has so many
_AT_ONCE_BYTES: Final = 1 << 20  # of a form, before other requests get a turn
_CHARACTERS: Final = 2048  # of a prompt: a system prompt, or a conversation's first message
_READ_BYTES: Final = 64 * 1024  # apart from images: all 16 MiB could take the event loop seconds
_IMAGE: Final = b";base64,"


class _Body(BaseModel):
    """The rest of a JSON body is only checked, in Rust, and makes no Python objects."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    model: Annotated[str, Field(max_length=_NAME_BYTES)] | None = None
    api_key: Annotated[str, Field(max_length=_NAME_BYTES)] | None = None


async def field_of(
    field: str, content_type: bytes, body: Sequence[bytes], query: bytes = b""
) -> str | None:
    """Return the `model` or `api_key` of a JSON body, a form, or a query instead of a body.

    None if there is none. InvalidRequestError if it is not JSON; the backend checks the rest.
    """
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        return await _of_form(field, options.get(b"boundary", b""), body)
    if kind == b"application/x-www-form-urlencoded":
        return _of_pairs(field, b"".join(body))
    if not kind and query:
        return _of_pairs(field, query)
    return _of_json(field, b"".join(body))


def _of_json(field: str, body: bytes) -> str | None:
    try:
        found: str | None = getattr(_Body.model_validate_json(body), field)
    except ValidationError as error:
        # A value of another type is for the backend to refuse.
        if error.errors(include_url=False, include_input=False)[0]["type"] == "json_invalid":
            raise refusal(error, "the body") from error
        return None
    return found


def _of_pairs(field: str, text: bytes) -> str | None:
    try:
        pairs = dict(parse_qsl(text.decode("utf-8", "replace"), max_num_fields=_MOST_PAIRS))
    except ValueError:
        return None  # the backend will refuse it
    return pairs.get(field)


async def _of_form(field: str, boundary: bytes, body: Sequence[bytes]) -> str | None:
    value: bytearray | None = None  # of the part that is read now, if it is the one
    found: str | None = None

    def begin(name: str | None, _: Mapping[bytes, bytes]) -> None:
        nonlocal value
        value = bytearray() if name == field else None

    def data(data: bytes, start: int, end: int) -> None:
        if value is not None:
            value.extend(data[start : min(end, start + _NAME_BYTES - len(value))])

    def end() -> None:
        nonlocal found
        if value is not None and value.strip():
            found = value.decode("utf-8", "replace").strip()

    read_bytes = 0
    try:
        parser = parser_of(boundary, begin, data, end)
        for piece in body:
            parser.write(piece)
            if found is not None:
                return found
            read_bytes += len(piece)
            if read_bytes >= _AT_ONCE_BYTES:
                read_bytes = 0
                await asyncio.sleep(0)
    except FormParserError:
        return None  # the backend will refuse it
    return None


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
