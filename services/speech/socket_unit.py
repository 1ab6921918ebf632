"""One synthesis on its way to a WebSocket: audio.start, its bytes, audio.done."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from services.audio.encode import encode, open_encoder, output_rate_hz
from services.audio.pcm import duration_s
from services.errors import InvalidRequestError
from services.openai.body import ClientGoneError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from services.audio.formats import OnAudioSeconds
    from services.audio.pcm import Samples
    from services.openai.speech import SessionConfig
    from services.speech.socket_text import Writing

WHOLE_BYTES: Final = 16 << 20
"""The largest answer in one message, if `stream_audio` is false."""

_BARE: Final = ("pcm", "ulaw", "alaw")  # formats without a header for the rate


def event(kind: str, **fields: object) -> str:
    """Return an event as it is sent."""
    return json.dumps({"type": kind, **fields})


class Unit:
    """One unit: its place in its utterance, and the progress of its audio.

    Attributes:
        made: samples so far.
    """

    def __init__(
        self,
        send: Callable[[str | bytes], Awaitable[None]],
        config: SessionConfig,
        utterance: int,
        sentence: int,
        text: str | None,
    ) -> None:
        """Take what is said.

        Args:
            send: sends a message, waiting for a client that is far behind.
            config: how it is spoken and sent.
            utterance: the number of its utterance, from 0.
            sentence: its own number, from 0.
            text: its complete text; None if it is still being written.
        """
        self.made = 0
        self._send = send
        self._config = config
        self._place = {"utterance_index": utterance, "sentence_index": sentence}
        self._text = text
        self._open = False  # audio.start was sent, and audio.done was not
        self._sent_bytes = 0
        self._held: list[bytes] = []

    async def speak(
        self,
        frames: AsyncGenerator[Samples, None],
        sample_rate_hz: int,
        writing: Writing,
        on_audio_seconds: OnAudioSeconds,
    ) -> None:
        """Send every frame as it is made, until the client closes the session.

        Raises:
            InvalidRequestError: the audio is too long for one message.
            Exception: whatever the engine or `send` raises; audio.done says that it broke off.
        """
        encoder = open_encoder(
            self._config.response_format,
            sample_rate_hz,
            to_hz=self._config.sample_rate,
            whole_bytes=0 if self._config.stream_audio else WHOLE_BYTES,
        )
        try:
            async for frame in frames:
                if writing.closing:
                    break
                if not self.made:
                    await self._start(writing.text if self._text is None else self._text)
                self.made += frame.size
                await encode(frame, sample_rate_hz, encoder, self._audio)
            if self.made:
                await self._audio(encoder.finish())
                if self._held:
                    await self._send(b"".join(self._held))
                await self._done(error=False)
        except ClientGoneError:
            raise
        except Exception:
            if self.made:
                # These fields are vLLM-Omni's: they tell clients to discard the partial audio.
                await self._done(error=True, partial_audio=True, action="discard")
            raise
        finally:
            if self.made:
                seconds = duration_s(self.made, sample_rate_hz)
                on_audio_seconds(seconds, self._config.response_format)

    async def cancelled(self) -> None:
        """Tell the client that the unit was cancelled, if audio.start was sent."""
        if self._open:
            self._sent_bytes *= self._config.stream_audio  # buffered audio is not sent
            await self._done(error=False, cancelled=True)

    async def _start(self, text: str) -> None:
        audio_format = self._config.response_format
        rate_hz = output_rate_hz(audio_format, self._config.sample_rate)
        rate = {"sample_rate": rate_hz} if audio_format in _BARE else {}
        start = {"sentence_text": text, "format": audio_format, **rate}
        await self._send(event("audio.start", **self._place, **start))
        self._open = True

    async def _audio(self, data: bytes) -> None:
        if not data:
            return
        self._sent_bytes += len(data)
        if self._config.stream_audio:
            await self._send(data)
        elif self._sent_bytes > WHOLE_BYTES:
            raise InvalidRequestError(
                f"the audio is over {WHOLE_BYTES} bytes, too much for one message; set "
                "stream_audio to true, or choose a compressed response_format",
                param="stream_audio",
                code="audio_too_long",
            )
        else:
            self._held.append(data)

    async def _done(self, *, error: bool, **more: object) -> None:
        self._open = False
        done = {"total_bytes": self._sent_bytes, "error": error, **more}
        await self._send(event("audio.done", **self._place, **done))
