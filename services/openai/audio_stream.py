"""Answers of audio: sent while it is made, as bytes or as the events of audio/speech."""

from __future__ import annotations

import base64
from typing import Final

from starlette.types import Send

from services.audio.encode import Encoder, encode
from services.audio.pcm import Samples
from services.openai.answers import EVENT_STREAM, chunk, event, stream_head

OUTPUT_TOKENS_PER_SECOND: Final = 20
"""How `usage` counts audio, since the engines' own tokens are not comparable.

An output token is 50 ms of audio; an input token is one character of `input` and `instructions`, or
50 ms of a recording to convert. Both are rounded up. OpenAI bills gpt-4o-mini-tts at about the same
rate (1250 a minute).
"""

_SENT_AT_ONCE: Final = 48 << 10  # bytes: a multiple of base64's 3, and less than a wav held back


def audio_tokens(sample_count: int, sample_rate_hz: int) -> int:
    """Return the tokens that `usage` counts for so many samples."""
    return -(-sample_count * OUTPUT_TOKENS_PER_SECOND // sample_rate_hz)


class AudioStream:
    """An answer of audio, whose headers are sent with the first of it: then it has `begun`."""

    def __init__(
        self, send: Send, encoder: Encoder, sample_rate_hz: int, *, as_events: bool
    ) -> None:
        """Encode samples of `sample_rate_hz` with `encoder`, which is fresh."""
        self.begun = False
        self.samples = 0
        self._send = send
        self._encoder = encoder
        self._sample_rate_hz = sample_rate_hz
        self._as_events = as_events
        self._waiting: list[bytes] = []
        self._more: dict[str, object] = {}

    async def feed(self, samples: Samples, **more: object) -> None:
        """Send float32 [N]; `more` are further fields of its events."""
        self.samples += samples.size
        self._more = more
        await encode(samples, self._sample_rate_hz, self._encoder, self._audio)

    async def tell(self, fields: dict[str, object]) -> None:
        """Send another event, if this is a stream of events; it waits for the first audio."""
        if self._as_events and self.begun:
            await self._send(chunk(event(fields)))
        elif self._as_events:
            self._waiting.append(event(fields))

    async def end(self, input_tokens: int) -> None:
        """Send the rest of the audio, the `usage` as an event, and the end."""
        await self._audio(self._encoder.finish())
        if self._as_events:
            output_tokens = audio_tokens(self.samples, self._sample_rate_hz)
            usage = {
                "input_tokens": input_tokens,
                "output_tokens": output_tokens,
                "total_tokens": input_tokens + output_tokens,
            }
            await self.tell({"type": "speech.audio.done", "usage": usage})
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _audio(self, data: bytes) -> None:
        if not self.begun:
            self.begun = True
            media_type = EVENT_STREAM if self._as_events else self._encoder.media_type
            await self._send(stream_head(media_type))
            for one in self._waiting:
                await self._send(chunk(one))
        for begin in range(0, len(data), _SENT_AT_ONCE):
            piece = data[begin : begin + _SENT_AT_ONCE]
            if self._as_events:
                audio = base64.b64encode(piece).decode("ascii")
                await self.tell({"type": "speech.audio.delta", "audio": audio, **self._more})
            else:
                await self._send(chunk(piece))
