"""Sends audio to the client: headers after the first frame, then each frame as it is made."""

from __future__ import annotations

import logging
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.audio.pcm import duration_s
from services.errors import EngineError, ServiceError
from services.openai.audio_stream import AudioStream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from starlette.types import Send

    from services.audio.encode import Encoder
    from services.audio.formats import AudioFormat
    from services.audio.pcm import Samples

    OnAudioSeconds = Callable[[float, AudioFormat], None]

log = logging.getLogger("bentovox.speech")


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
        stream = AudioStream(send, self.encoder, self.sample_rate_hz, as_events=self.as_events)
        try:
            async with aclosing(self.frames) as frames:
                async for frame in frames:
                    await stream.feed(frame)
            if not stream.samples:
                raise self.nothing_made  # noqa: TRY301  handled like the engine's own errors
            await stream.end(self.input_tokens)
        except Exception as error:
            if stream.begun:
                log.exception("speech broke off after %d samples", stream.samples)
            if isinstance(error, ServiceError):
                raise
            raise EngineError(f"the {self.engine} engine failed", code="engine_failed") from error
        finally:
            if stream.samples:
                seconds = duration_s(stream.samples, self.sample_rate_hz)
                self.on_audio_seconds(seconds, self.audio_format)
