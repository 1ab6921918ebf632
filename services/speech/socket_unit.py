"""One synthesis on its way to a WebSocket: audio.start, its bytes, audio.done."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.audio.encode import encode, open_encoder, output_rate_hz
from services.audio.pcm import duration_s
from services.errors import InvalidRequestError
from services.server.websocket import HungUpError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.types import Send

    from services.audio.pcm import Samples
    from services.openai.speech import SessionConfig
    from services.speech.audio_answer import OnAudioSeconds
    from services.speech.socket_text import Writing

WHOLE_BYTES: Final = 16 << 20
"""The largest answer in one message, if `stream_audio` is false."""

_BARE: Final = ("pcm", "ulaw", "alaw")  # formats without a header for the rate


async def send_event(send: Send, kind: str, **fields: object) -> None:
    """Send an event, waiting for a client that is far behind."""
    text = json.dumps({"type": kind, **fields})
    await send({"type": "websocket.send", "text": text})


@dataclass
class Unit:
    """One unit: its place in its utterance, and the progress of its audio.

    Attributes:
        config: how it is spoken and sent.
        utterance: the number of its utterance, from 0.
        sentence: its own number, from 0.
        text: its complete text; None if it is still being written.
        made: samples so far.
        open: whether audio.start was sent and audio.done was not.
        sent_bytes: of audio, so far.
    """

    config: SessionConfig
    utterance: int
    sentence: int
    text: str | None
    made: int = 0
    open: bool = False
    sent_bytes: int = 0

    async def send_to(
        self,
        send: Send,
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
        try:
            await self._send_frames(send, frames, sample_rate_hz, writing)
        except HungUpError:
            raise
        except Exception:
            if self.made:
                # These fields are vLLM-Omni's: they tell clients to discard the partial audio.
                await self._done(send, error=True, partial_audio=True, action="discard")
            raise
        finally:
            if self.made:
                seconds = duration_s(self.made, sample_rate_hz)
                on_audio_seconds(seconds, self.config.response_format)

    async def _send_frames(
        self,
        send: Send,
        frames: AsyncGenerator[Samples, None],
        sample_rate_hz: int,
        writing: Writing,
    ) -> None:
        encoder = open_encoder(
            self.config.response_format,
            sample_rate_hz,
            to_hz=self.config.sample_rate,
            whole_bytes=0 if self.config.stream_audio else WHOLE_BYTES,
        )
        held: list[bytes] = []

        async def send_audio(data: bytes) -> None:
            await self._audio(send, data, held)

        async for frame in frames:
            if writing.closing:
                break
            if not self.made:
                await self._start(send, writing)
            self.made += frame.size
            await encode(frame, sample_rate_hz, encoder, send_audio)
        if not self.made:
            return
        await send_audio(encoder.finish())
        if held:
            await send({"type": "websocket.send", "bytes": b"".join(held)})
        await self._done(send, error=False)

    async def _start(self, send: Send, writing: Writing) -> None:
        audio_format = self.config.response_format
        rate_hz = output_rate_hz(audio_format, self.config.sample_rate)
        rate = {"sample_rate": rate_hz} if audio_format in _BARE else {}
        await send_event(
            send,
            "audio.start",
            utterance_index=self.utterance,
            sentence_index=self.sentence,
            sentence_text=writing.text if self.text is None else self.text,
            format=audio_format,
            **rate,
        )
        self.open = True

    async def _audio(self, send: Send, data: bytes, held: list[bytes]) -> None:
        if not data:
            return
        self.sent_bytes += len(data)
        if self.config.stream_audio:
            await send({"type": "websocket.send", "bytes": data})
            return
        if self.sent_bytes > WHOLE_BYTES:
            raise InvalidRequestError(
                f"the audio is over {WHOLE_BYTES} bytes, too much for one message; set "
                "stream_audio to true, or choose a compressed response_format",
                param="stream_audio",
                code="audio_too_long",
            )
        held.append(data)

    async def cancelled(self, send: Send) -> None:
        """Tell the client that the unit was cancelled, if audio.start was sent."""
        if self.open:
            self.sent_bytes *= self.config.stream_audio  # buffered audio is not sent
            await self._done(send, error=False, cancelled=True)

    async def _done(self, send: Send, *, error: bool, **more: object) -> None:
        self.open = False
        await send_event(
            send,
            "audio.done",
            utterance_index=self.utterance,
            sentence_index=self.sentence,
            total_bytes=self.sent_bytes,
            error=error,
            **more,
        )
