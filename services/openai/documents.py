"""Answers that are one JSON document."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from services.errors import no_such_model

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence

    from starlette.types import Receive, Scope, Send

    Handler = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]


async def send_json(
    send: Send,
    answer: Mapping[str, object] | Sequence[object],
    more: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """Send `answer` with status 200; `more` are headers beside the usual ones."""
    body = json.dumps(answer, ensure_ascii=False).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *more,
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def model_routes(
    cards: Callable[[], Awaitable[Mapping[str, Mapping[str, object]]]],
) -> dict[str, Handler]:
    """Return what answers /v1/models and /v1/models/{id}, given the cards by id."""

    async def listed(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send_json(send, {"object": "list", "data": [*(await cards()).values()]})

    async def one(scope: Scope, _receive: Receive, send: Send) -> None:
        name = scope["path"].removeprefix("/v1/models/")
        found = await cards()
        if name not in found:
            raise no_such_model(name)
        await send_json(send, found[name])

    return {"/v1/models": listed, "/v1/models/{*}": one}
