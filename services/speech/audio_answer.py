"""Sends audio to the client: headers after the first frame, then each frame as it is made."""

from __future__ import annotations

import logging
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.audio.encode import encode
from services.audio.pcm import duration_s
from services.errors import EngineError, ServiceError
from services.openai.events import EVENT_STREAM, chunk, event, stream_head
from services.openai.speech_events import audio_delta, audio_done, audio_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from starlette.types import Send

    from services.audio.encode import Encoder
    from services.audio.formats import AudioFormat
    from services.audio.pcm import Samples

    OnAudioSeconds = Callable[[float, AudioFormat], None]

log = logging.getLogger("bentovox.speech")

_SENT_AT_ONCE: Final = 48 << 10  # bytes; divisible by 3 for base64; a buffered wav is much larger


@dataclass(frozen=True)
class AudioAnswer:
    """One answer of audio, to audio/speech or audio/voice-conversion.

    Attributes:
        frames: the engine's generator, not started yet, for a request that passed its check.
        engine: the engine's name, for errors.
        sample_rate_hz: of the frames.
        input_tokens: of the request, for `usage`.
        nothing_made: raised if the engine makes no frame.
        encoder: a new one, for the frames' rate.
        audio_format: the encoder's.
        as_events: send server-sent events instead of bare bytes.
        on_audio_seconds: called once with the duration of the audio made.
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
        """Send headers once there is a first frame, then every frame as it is made.

        Raises:
            ServiceError: the engine failed or made nothing. If headers were sent already, the
                answer is incomplete and the connection must not end as if it were complete.
        """
        made = 0
        started = False

        async def send_audio(data: bytes) -> None:
            nonlocal started
            if not started:
                await send(stream_head(EVENT_STREAM if self.as_events else self.encoder.media_type))
                started = True
            for begin in range(0, len(data), _SENT_AT_ONCE):
                piece = data[begin : begin + _SENT_AT_ONCE]
                await send(chunk(event(audio_delta(piece)) if self.as_events else piece))

        try:
            async with aclosing(self.frames) as frames:
                async for frame in frames:
                    made += frame.size
                    await encode(frame, self.sample_rate_hz, self.encoder, send_audio)
            if not made:
                raise self.nothing_made  # noqa: TRY301  handled like the engine's own errors
            await send_audio(self.encoder.finish())
            await self._end(send, made)
        except Exception as error:
            if started:
                log.exception("speech broke off after %d samples", made)
            if isinstance(error, ServiceError):
                raise
            raise EngineError(f"the {self.engine} engine failed", code="engine_failed") from error
        finally:
            if made:
                self.on_audio_seconds(duration_s(made, self.sample_rate_hz), self.audio_format)

    async def _end(self, send: Send, made: int) -> None:
        if self.as_events:
            output_tokens = audio_tokens(made, self.sample_rate_hz)
            await send(chunk(event(audio_done(self.input_tokens, output_tokens))))
        await send({"type": "http.response.body", "body": b"", "more_body": False})
