"""Answers that are one JSON document, and the table of paths that give them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping

    from starlette.types import Receive, Scope, Send

    from services.openai.models import Models

    Json = dict[str, Any] | list[Any]
    Handler = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Call:
    """A request that is answered with a document."""

    scope: Scope
    receive: Receive

    @property
    def name(self) -> str:
        """What stands in the path in the place of its template's `{}` or `{*}`."""
        template: str = self.scope["bentovox.route"]
        return str(self.scope["path"]).removeprefix(template.partition("{")[0])


def document(answer: Callable[[Call], Awaitable[Json] | Json]) -> Handler:
    """Return a handler that sends what `answer` returns, or what comes of awaiting it."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        made = answer(Call(scope, receive))
        await send_json(send, made if isinstance(made, dict | list) else await made)

    return handler


def of_models(models: Models) -> dict[tuple[str, str], Handler]:
    """Return the handlers of the paths that list `models`."""
    return {
        ("GET", "/v1/models"): document(lambda _: models.listed()),
        ("GET", "/v1/models/{*}"): document(lambda call: models.card(call.name)),
    }


def by_route(handlers: Mapping[tuple[str, str], Handler]) -> Handler:
    """Return the application that has a handler for each method and template that a role serves.

    The shell has found the template, and answers HEAD from GET's handler.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        await handlers[method, scope["bentovox.route"]](scope, receive, send)

    return app


async def send_json(send: Send, answer: Json, more: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Send `answer` with status 200; `more` are headers beside the usual ones."""
    body = json.dumps(answer, ensure_ascii=False).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *more,
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
