"""Audio on its way to the client: primed, and encoded frame by frame."""

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

_SENT_AT_ONCE: Final = 48 << 10  # bytes: base64 of it is whole, and a held wav is much more


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
                raise self.nothing_made  # noqa: TRY301  as what the engine refuses
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
