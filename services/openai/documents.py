"""Answers that are one JSON document."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from starlette.types import Send


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
