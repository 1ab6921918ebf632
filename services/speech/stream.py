"""Audio on its way to the client: primed, encoded frame by frame, stopped by a hang-up."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.audio.pcm import duration_s
from services.errors import EngineError, InvalidRequestError, ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.types import Receive, Send

    from services.audio.encode import AudioFormat, Encoder
    from services.speech.engines.protocol import SpeechEngine, SynthesisRequest

    OnAudioSeconds = Callable[[float, AudioFormat], None]

log = logging.getLogger("bentovox.speech")

OUTPUT_TOKENS_PER_SECOND: Final = 20
"""What `usage` counts in a stream of events, since no engine's inner tokens are comparable.

An input token is one character of `input` and `instructions`; an output token is 50 ms of audio,
rounded up, near the rate at which OpenAI's gpt-4o-mini-tts is billed (about 1250 a minute).
"""


_ENCODED_AT_ONCE_S: Final = 0.1
"""What one turn of the event loop encodes, about a millisecond of work."""


class ClientGoneError(Exception):
    """The client hung up before its request was whole; there is nobody to answer."""


@dataclass(frozen=True)
class AudioAnswer:
    """One answer of audio/speech.

    Attributes:
        engine: what speaks; `request` passed its check.
        request: what to say; its text is whole.
        encoder: a fresh one, for the engine's rate.
        audio_format: what the encoder makes.
        as_events: server-sent events instead of the bare bytes.
        on_audio_seconds: told once how much audio was made.
    """

    engine: SpeechEngine
    request: SynthesisRequest
    encoder: Encoder
    audio_format: AudioFormat
    as_events: bool
    on_audio_seconds: OnAudioSeconds

    async def send_to(self, send: Send) -> None:
        """Send headers once the first frame is there, then every frame as it is made.

        Raises:
            ServiceError: the engine failed, or made nothing; if headers are out already, the
                answer is incomplete and the connection must not end as if it were whole.
        """
        made = 0
        started = False
        step = int(self.engine.sample_rate_hz * _ENCODED_AT_ONCE_S)
        try:
            async with aclosing(self.engine.synthesise(self.request)) as frames:
                async for frame in frames:
                    made += frame.size
                    for begin in range(0, frame.size, step):
                        data = self.encoder.feed(frame[begin : begin + step])
                        if not started:
                            await send(self._head())
                            started = True
                        await self._send_audio(send, data)
                        await asyncio.sleep(0)  # sending need not yield, and others talk too
            _expect_audio(made)
            await self._send_audio(send, self.encoder.finish())
            if self.as_events:
                await send(_chunk(_event(self._done(made))))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except Exception as error:
            if started:
                log.exception("speech broke off after %d samples", made)
            if isinstance(error, ServiceError):
                raise
            raise EngineError(
                f"the {self.engine.name} engine failed", code="engine_failed"
            ) from error
        finally:
            if made:
                seconds = duration_s(made, self.engine.sample_rate_hz)
                self.on_audio_seconds(seconds, self.audio_format)

    def _head(self) -> dict[str, object]:
        media_type = "text/event-stream" if self.as_events else self.encoder.media_type
        headers = [
            (b"content-type", media_type.encode()),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),  # nginx would gather the stream otherwise
        ]
        return {"type": "http.response.start", "status": 200, "headers": headers}

    async def _send_audio(self, send: Send, data: bytes) -> None:
        if not data:
            return
        if self.as_events:
            encoded = base64.b64encode(data).decode("ascii")
            data = _event({"type": "speech.audio.delta", "audio": encoded})
        await send(_chunk(data))

    def _done(self, made: int) -> dict[str, object]:
        text = self.request.text if isinstance(self.request.text, str) else ""
        input_tokens = len(text) + len(self.request.instructions or "")
        output_tokens = -(-made * OUTPUT_TOKENS_PER_SECOND // self.engine.sample_rate_hz)
        usage = {
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "total_tokens": input_tokens + output_tokens,
        }
        return {"type": "speech.audio.done", "usage": usage}


def _expect_audio(made: int) -> None:
    if not made:
        raise InvalidRequestError(
            "input holds nothing that this voice can say", param="input", code="blank_input"
        )


async def until_hangup(receive: Receive, answer: Coroutine[None, None, None]) -> None:
    """Run `answer`; cancel it as soon as the client hangs up, and return then.

    Raises:
        Exception: whatever `answer` raises.
    """
    working = asyncio.ensure_future(answer)
    listening = asyncio.ensure_future(_hangup(receive))
    try:
        await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        for task in (working, listening):
            task.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


async def _hangup(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _chunk(data: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": data, "more_body": True}


def _event(fields: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"
