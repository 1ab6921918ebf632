"""The ear of a conversation: the transcription role's own realtime session.

It has the input audio buffer, finds turns and writes down what is said. So its events are those
that the client of a conversation gets, and what is wrong with a setting is its to say.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from services.backends.client import Caller
from services.conversation.live.settings import SEMANTIC
from services.errors import BackendError, ServiceError
from services.openai.errors import error_told
from services.openai.paths import REALTIME
from services.openai.realtime import InputFields

HEARD: Final[dict[str, Any]] = {
    "format": {"type": "audio/pcm", "rate": 24_000},
    "transcription": None,
    "noise_reduction": None,
    "turn_detection": {
        "type": "server_vad",
        "threshold": 0.5,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
    },
}
"""`session.audio.input` of a session whose client has set nothing."""

_SILENT: Final = "idle_timeout"
_ANSWERING: Final = {"create_response", "interrupt_response", "idle_timeout_ms", "eagerness"}
_SOUND: Final = "input_audio_buffer.append"
_OURS: Final = "ear"  # the id of our own events; a client's are passed on under its ids


class Ear:
    """Opened with the first event, and again with the next one after it broke."""

    def __init__(
        self,
        caller: Caller,
        on_event: Callable[[dict[str, Any]], Awaitable[None]],
        on_lost: Callable[[ServiceError], Awaitable[None]],
        least_speech_ms: int = 0,
    ) -> None:
        """Pass each event to `on_event`, and why the connection broke to `on_lost`.

        Shorter speech than `least_speech_ms` is none, unless the client says otherwise.
        """
        self._least = {"min_speech_duration_ms": least_speech_ms} if least_speech_ms else {}
        # `session.audio.input` as it is in force.
        self.heard = {**HEARD, "turn_detection": {**HEARD["turn_detection"], **self._least}}
        self.plain = False  # whether it is the client's session, which sends the settings itself
        self.opened = 0  # how often it was opened; each time, its audio begins anew
        self._caller = caller
        self._on_event = on_event
        self._on_lost = on_lost
        self._open = AsyncExitStack()  # has the socket
        self._connection: ClientConnection | None = None
        self._listening: asyncio.Task[None] | None = None
        self._answer: asyncio.Future[dict[str, Any]] | None = None
        self._deaf = False

    async def send(self, event: dict[str, Any]) -> None:
        """Send a client's event; of the sound while nobody hears, only the first piece raises."""
        for again in (True, False):
            try:
                connection = self._connection or await self._opened()
            except ServiceError:  # a microphone goes on, with dozens of pieces a second
                told, self._deaf = self._deaf, True
                if told and event.get("type") == _SOUND:
                    return
                raise
            self._deaf = False
            try:
                await connection.send(json.dumps(event))
            except ConnectionClosed as exc:  # for silence, most likely: the client has waited
                self._connection = None
                if not again:
                    raise BackendError("The transcription service broke off.") from exc
            else:
                return

    async def follow(self, given: InputFields) -> None:
        """Change `session.audio.input`; if it is refused, nothing has changed."""
        connection = self._connection or await self._opened()
        changes = given.model_dump(exclude_unset=True, exclude={"turn_detection": _ANSWERING})
        if given.turn_detection is not None and given.turn_detection.type == SEMANTIC:
            changes["turn_detection"] = HEARD["turn_detection"]
        if changes.get("turn_detection"):
            changes["turn_detection"] = {**self._least, **changes["turn_detection"]}
        if changes.get("transcription", ...) is None:  # off, for the client
            del changes["transcription"]
        await self._update(connection, changes)

    async def close(self) -> None:
        """End the session."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
            await self._open.aclose()  # `_listen` may have ended before it began

    async def _opened(self) -> ClientConnection:
        if self._listening is not None:  # it has broken, and may not have told all of that yet
            await asyncio.wait([self._listening])
        socket = self._caller.socket("transcription", f"{REALTIME}?intent=transcription")
        connection = self._connection = await self._open.enter_async_context(socket)
        self._listening = asyncio.create_task(self._listen(connection))
        self.opened += 1
        if not self.plain:
            known = {name: value for name, value in self.heard.items() if value is not None}
            await self._update(connection, {"turn_detection": None, **known})
        return connection

    async def _update(self, connection: ClientConnection, changes: dict[str, Any]) -> None:
        if self._connection is not connection:  # it broke, and nobody listens any more
            raise BackendError("The transcription service broke off.")
        answer = self._answer = asyncio.get_running_loop().create_future()
        session = {"type": "transcription", "audio": {"input": changes}}
        update = {"type": "session.update", "event_id": _OURS, "session": session}
        with suppress(ConnectionClosed):  # `_listen` tells
            await connection.send(json.dumps(update))
        told = await answer
        if told["type"] == "error":
            raise error_told(told["error"])
        self.heard = told["session"]["audio"]["input"]

    async def _listen(self, connection: ClientConnection) -> None:
        fault: ServiceError = BackendError("The transcription service broke off.")
        silent = False
        try:
            async with self._open:
                async for message in connection:
                    event = json.loads(message)
                    error = event["error"] if event["type"] == "error" else {}
                    silent = silent or error.get("code") == _SILENT
                    ours = error.get("event_id") == _OURS or event["type"] == "session.updated"
                    if "message" in event:  # its last words; see services.server.websocket
                        fault = error_told(error)
                    elif ours and not self.plain:
                        self._settle(event)
                    elif not silent and event["type"] != "session.created":
                        await self._on_event(event)
        except ConnectionClosed:
            pass
        except ServiceError as error:
            fault = error
        finally:
            self._connection = None
            self._settle({"type": "error", "error": {"message": fault.message}})
        if not silent:
            await self._on_lost(fault)

    def _settle(self, event: dict[str, Any]) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(event)
