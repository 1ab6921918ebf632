"""How a response is spoken: the speech role's own WebSocket, which takes text as it is written.

It cuts the text into clauses and speaks the first while the others are still to be written.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from websockets.exceptions import ConnectionClosed

from services.audio.formats import LIVE_RATE_HZ
from services.errors import BackendError
from services.openai.errors import error_told
from services.openai.paths import SPEECH_STREAM
from services.openai.speech import INPUT_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from websockets.asyncio.client import ClientConnection

    from services.audio.formats import LiveFormat
    from services.backends.client import Caller
    from services.conversation.live.settings import Answering

_FORMATS: Final[dict[LiveFormat, str]] = {
    "audio/pcm": "pcm",
    "audio/pcmu": "ulaw",
    "audio/pcma": "alaw",
}


def duration_ms(size: int, live_format: LiveFormat) -> float:
    """Return how long so many bytes of a format sound."""
    sample_bytes = 2 if live_format == "audio/pcm" else 1
    return 1000 * size / (LIVE_RATE_HZ[live_format] * sample_bytes)


class Mouth:
    """Speaks one answer."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def say(self, text: str) -> None:
        """Take more text."""
        for begin in range(0, len(text), INPUT_CHARACTERS):
            piece = text[begin : begin + INPUT_CHARACTERS]
            await self._send({"type": "input.text", "text": piece})

    async def finish(self) -> None:
        """Take no more text."""
        await self._send({"type": "input.done"})

    async def sounds(self) -> AsyncGenerator[str | bytes, None]:
        """Yield the text of each clause, and then its audio as it is made, until all is spoken.

        Raises:
            ServiceError: the speech backend refused or broke off.
        """
        try:
            async for message in self._connection:
                if isinstance(message, bytes):
                    yield message
                    continue
                event: dict[str, Any] = json.loads(message)
                if event["type"] == "audio.start":
                    yield str(event["sentence_text"])
                elif event["type"] == "error":
                    raise error_told(event["error"])
                elif event["type"] == "session.done":
                    return
        except ConnectionClosed:
            pass
        raise BackendError("The speech service broke off.")

    async def _send(self, message: dict[str, Any]) -> None:
        with suppress(ConnectionClosed):  # `sounds` tells why
            await self._connection.send(json.dumps(message))


@asynccontextmanager
async def mouth(caller: Caller, answering: Answering) -> AsyncIterator[Mouth]:
    """Yield a mouth for one answer; if the block is left early, the engine stops.

    Raises:
        ServiceError: no speech backend can be reached.
    """
    manner = {
        "response_format": _FORMATS[answering.live_format],
        "speed": answering.speed,
        "stream_audio": True,
        "split_granularity": "clause",
        "voice": answering.voice,
    }
    async with caller.socket("speech", SPEECH_STREAM) as connection:
        speaking = Mouth(connection)
        await connection.send(json.dumps({"type": "session.config", **manner}))
        yield speaking


async def check_voice(caller: Caller, answering: Answering) -> None:
    """Raise unless the speech role can speak like this.

    Raises:
        ServiceError: it cannot.
    """
    async with mouth(caller, answering) as speaking:
        await speaking.finish()
        async for _ in speaking.sounds():
            pass
