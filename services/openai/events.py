"""Streamed answers: server-sent events, and the ASGI messages that carry them."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

EVENT_STREAM = "text/event-stream"

UNBUFFERED = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
"""The headers of every stream: without the second, nginx buffers it."""


def event(fields: dict[str, object]) -> bytes:
    """Return one server-sent event with `fields` as JSON."""
    return b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"


def is_of(headers: Iterable[tuple[bytes, bytes]], media_type: bytes) -> bool:
    """Return whether the content type in `headers` begins with `media_type`."""
    return any(
        name.lower() == b"content-type" and value.startswith(media_type) for name, value in headers
    )


def stream_head(media_type: str) -> dict[str, object]:
    """Return the ASGI message that begins a streamed answer."""
    headers = [(b"content-type", media_type.encode()), *UNBUFFERED]
    return {"type": "http.response.start", "status": 200, "headers": headers}


def chunk(data: bytes) -> dict[str, object]:
    """Return the ASGI message of a piece of a body that is not the last."""
    return {"type": "http.response.body", "body": data, "more_body": True}


def new_id(kind: str) -> str:
    """Return a fresh id, such as `item_…`."""
    return f"{kind}_{uuid.uuid4().hex[:24]}"
