"""Audio on its way to the client: primed, and encoded frame by frame."""

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
        stream = AudioStream(send, self.encoder, self.sample_rate_hz, as_events=self.as_events)
        try:
            async with aclosing(self.frames) as frames:
                async for frame in frames:
                    await stream.feed(frame)
            if not stream.samples:
                raise self.nothing_made  # noqa: TRY301  as what the engine refuses
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
