"""Audio on its way to the client: primed, and encoded frame by frame."""

from __future__ import annotations

import asyncio
import base64
import logging
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.audio.pcm import duration_s
from services.errors import EngineError, ServiceError
from services.openai.events import chunk, event, stream_head

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from starlette.types import Send

    from services.audio.encode import Encoder
    from services.audio.formats import AudioFormat
    from services.audio.pcm import Samples

    OnAudioSeconds = Callable[[float, AudioFormat], None]

log = logging.getLogger("bentovox.speech")

OUTPUT_TOKENS_PER_SECOND: Final = 20
"""What `usage` counts in a stream of events, since no engine's inner tokens are comparable.

An input token is one character of `input` and `instructions`, or 50 ms of a recording to convert;
an output token is 50 ms of audio. Both are rounded up. That is near the rate at which OpenAI's
gpt-4o-mini-tts is billed (about 1250 a minute).
"""


_ENCODED_AT_ONCE_S: Final = 0.1
"""What one turn of the event loop encodes, about a millisecond of work."""

_SENT_AT_ONCE: Final = 48 << 10  # bytes: base64 of it is whole, and a held wav is much more


def audio_tokens(sample_count: int, sample_rate_hz: int) -> int:
    """Return the tokens that `usage` counts for so many samples."""
    return -(-sample_count * OUTPUT_TOKENS_PER_SECOND // sample_rate_hz)


@dataclass(frozen=True)
class AudioAnswer:
    """One answer of audio, to audio/speech or audio/voice-conversion.

    Attributes:
        frames: the engine's, for a request that passed its check; not begun yet.
        engine: the engine's name, for errors.
        sample_rate_hz: of the frames.
        input_tokens: what `usage` says of the request.
        nothing_made: raised when there is not one frame.
        encoder: a fresh one, for the frames' rate.
        audio_format: what the encoder makes.
        as_events: server-sent events instead of the bare bytes.
        on_audio_seconds: told once how much audio was made.
    """

    frames: AsyncGenerator[Samples, None]
    engine: str
    sample_rate_hz: int
    input_tokens: int
    nothing_made: ServiceError
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
        step = int(self.sample_rate_hz * _ENCODED_AT_ONCE_S)
        try:
            async with aclosing(self.frames) as frames:
                async for frame in frames:
                    made += frame.size
                    for begin in range(0, frame.size, step):
                        data = self.encoder.feed(frame[begin : begin + step])
                        if not started:
                            await send(self._head())
                            started = True
                        await self._send_audio(send, data)
                        await asyncio.sleep(0)  # sending need not yield, and others talk too
            if not made:
                raise self.nothing_made  # noqa: TRY301  as what the engine refuses
            await self._send_audio(send, self.encoder.finish())
            if self.as_events:
                await send(chunk(event(self._done(made))))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except Exception as error:
            if started:
                log.exception("speech broke off after %d samples", made)
            if isinstance(error, ServiceError):
                raise
            raise EngineError(f"the {self.engine} engine failed", code="engine_failed") from error
        finally:
            if made:
                self.on_audio_seconds(duration_s(made, self.sample_rate_hz), self.audio_format)

    def _head(self) -> dict[str, object]:
        return stream_head("text/event-stream" if self.as_events else self.encoder.media_type)

    async def _send_audio(self, send: Send, data: bytes) -> None:
        for begin in range(0, len(data), _SENT_AT_ONCE):
            piece = data[begin : begin + _SENT_AT_ONCE]
            if self.as_events:
                encoded = base64.b64encode(piece).decode("ascii")
                piece = event({"type": "speech.audio.delta", "audio": encoded})
            await send(chunk(piece))

    def _done(self, made: int) -> dict[str, object]:
        output_tokens = audio_tokens(made, self.sample_rate_hz)
        usage = {
            "input_tokens": self.input_tokens,
            "output_tokens": output_tokens,
            "total_tokens": self.input_tokens + output_tokens,
        }
        return {"type": "speech.audio.done", "usage": usage}
