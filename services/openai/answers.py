"""Answers: one JSON document or a stream of events; and the table of handlers that give them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

from services.errors import NotFoundError, no_such_model

Cards = Mapping[str, Mapping[str, object]]
Json = Mapping[str, object] | Sequence[object]
Handler = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]
Handlers = dict[tuple[str, str], Handler]


@dataclass(frozen=True)
class Call:
    """A request that is answered with a document."""

    scope: Scope
    receive: Receive

    @property
    def name(self) -> str:
        """The part of the path that matches the template's `{}` or `{*}`."""
        template: str = self.scope["bentovox.route"]
        return str(self.scope["path"]).removeprefix(template.partition("{")[0])


def document(answer: Callable[[Call], Awaitable[Json] | Json]) -> Handler:
    """Return a handler that sends the document that `answer` returns, awaited if need be."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        made = answer(Call(scope, receive))
        await send_json(send, await made if isinstance(made, Awaitable) else made)

    return handler


def of_models(
    cards: Callable[[], Awaitable[Cards] | Cards],
    missing: Callable[[str], NotFoundError] = no_such_model,
) -> Handlers:
    """Return the handlers of the paths that list models.

    `cards` returns their cards by id, `missing` the error for another id.
    """

    async def now() -> Cards:
        found = cards()
        return await found if isinstance(found, Awaitable) else found

    async def listed(_: Call) -> Json:
        return {"object": "list", "data": [*(await now()).values()]}

    async def one(call: Call) -> Json:
        found = await now()
        if call.name not in found:
            raise missing(call.name)
        return found[call.name]

    return {("GET", "/v1/models"): document(listed), ("GET", "/v1/models/{*}"): document(one)}


async def send_json(send: Send, answer: Json, more: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Send `answer` with status 200 and further headers."""
    body = json.dumps(answer, ensure_ascii=False).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *more,
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


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
