"""Errors in vLLM's streams: a broken stream must not look complete.

vLLM sends the head of a stream before the engine has answered, reports errors as events of its own
shape, and ends with `[DONE]` all the same. Here the head waits for the engine's first output. An
error before that gets its HTTP status; a later one becomes an event of OpenAI's shape, and the
connection is closed without the last chunk.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from services.openai.answers import EVENT_STREAM, UNBUFFERED, chunk, is_of
from services.openai.errors import error_from, fault_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from services.errors import ServiceError

_FAULT: Final = b'data: {"error"'
_SAID_BEFOREHAND: Final = (b"event: response.created\n", b"event: response.in_progress\n")
_OK: Final = 200


class Answer:
    """ASGI's `send` for vLLM's application."""

    def __init__(self, send: Callable[[Any], Awaitable[None]], *, events: bool) -> None:
        """With `events`, the path's streams have named events (/v1/responses)."""
        self._send = send
        self._events = events
        self._held: list[Any] = []
        self.streams = False
        self._sent_events = 0
        self.error: ServiceError | None = None

    async def send(self, message: Any) -> None:
        """Send a message, or hold it until the engine's first output."""
        if self.error is not None:
            return
        if message["type"] == "http.response.start":
            is_stream = is_of(message["headers"], EVENT_STREAM.encode())
            self.streams = message["status"] == _OK and is_stream
            if self.streams:
                self._held = [{**message, "headers": [*message["headers"], *UNBUFFERED]}]
                return
        elif self.streams:
            body: bytes = message.get("body", b"")
            if body.startswith(_FAULT):
                await self.break_off(_fault(body))
                return
            self._sent_events += 1
            if self._held:
                self._held.append(message)
                if body.startswith(_SAID_BEFOREHAND):
                    return
                for held in self._held:
                    await self._send(held)
                self._held = []
                return
        await self._send(message)

    async def break_off(self, error: ServiceError) -> None:
        """End the answer with `error`, as an event if the stream has begun."""
        begun = self.streams and not self._held
        self.error, self._held = error, []
        if begun:
            await self._send(chunk(self._event(error)))

    def _event(self, error: ServiceError) -> bytes:
        fault = fault_of(error)
        if not self._events:
            return b"data: " + json.dumps({"error": fault}).encode() + b"\n\n"
        event = {**fault, "type": "error", "sequence_number": self._sent_events}
        return b"event: error\ndata: " + json.dumps(event).encode() + b"\n\n"


def _fault(event: bytes) -> ServiceError:
    """Return the error of an event of vLLM's."""
    said = event.removeprefix(b"data: ").partition(b"\n")[0]
    code = json.loads(said)["error"].get("code")
    status = code if isinstance(code, int) and code > _OK else 500
    return error_from(status, said)
