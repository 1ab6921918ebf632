"""A chat backend that translates by rule, so that its answers are known."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = "translator"
_MARKED = re.compile(r"<(textx*)>\n(.*)\n</\1>\Z", re.DOTALL)


def text_of(body: dict[str, Any]) -> str:
    """Return the text that the model was asked to translate."""
    found = _MARKED.match(body["messages"][-1]["content"])
    assert found, body["messages"][-1]
    return found[2]


def louder(text: str) -> str:
    """Translate into capitals, and leave marks such as <x1> as they are."""
    parts = re.split(r"(</?x+\d+/?>)", text)
    return "".join(part if index % 2 else part.upper() for index, part in enumerate(parts))


class TranslatingChat:
    """An ASGI application: `say` translates a text, `language` is what it detects.

    It records each question on arrival, and its text in `answered` when the answer is sent; until
    `free` is set, no answer is sent. `cut` has the questions whose client hung up.
    """

    def __init__(self, say: Callable[[str], str] = louder) -> None:
        self.say = say
        self.language = "German"
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answered: list[str] = []
        self.cut = 0
        self.at_once = self.most_at_once = 0
        self.finish_reason = "stop"
        self.status = 200
        self.error: dict[str, Any] = {}
        self.arrived = asyncio.Event()
        self.free = asyncio.Event()
        self.free.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if path == "/readyz":
            await send_json(send, {"status": "ready", "role": "chat", "detail": {}})
        elif path == "/v1/models":
            card = {"id": MODEL, "object": "model", "max_model_len": 4096}
            await send_json(send, {"object": "list", "data": [card]})
        else:
            await self._complete(scope, receive, send)

    async def _complete(self, scope: Any, receive: Any, send: Any) -> None:
        data = b""
        more = True
        while more:
            message = await receive()
            data += message.get("body", b"")
            more = message.get("more_body", False)
        body = json.loads(data)
        self.asked.append(body)
        self.headers.append({k.decode(): v.decode() for k, v in scope["headers"]})
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.arrived.set()
        leaving = asyncio.ensure_future(receive())
        freed = asyncio.ensure_future(self.free.wait())
        try:
            await asyncio.sleep(0)
            await asyncio.wait({leaving, freed}, return_when=asyncio.FIRST_COMPLETED)
            if not freed.done():
                self.cut += 1
                return
        finally:
            self.at_once -= 1
            leaving.cancel()
            freed.cancel()
        if self.status != 200:
            await send_json(send, {"error": self.error}, self.status)
            return
        if "structured_outputs" in body:
            assert self.language in body["structured_outputs"]["choice"]
            choice = {
                "message": {"role": "assistant", "content": self.language},
                "logprobs": {"content": [{"logprob": -0.1}, {"logprob": -0.1}]},
                "finish_reason": "stop",
            }
        else:
            said = self.say(text_of(body))
            self.answered.append(said)
            choice = {
                "message": {"role": "assistant", "content": said},
                "finish_reason": self.finish_reason,
            }
        await send_json(send, {"object": "chat.completion", "model": MODEL, "choices": [choice]})


async def send_json(send: Any, value: dict[str, Any], status: int = 200) -> None:
    data = json.dumps(value).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(data)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
