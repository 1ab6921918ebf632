"""Decoding of audio that arrives in pieces, in the three formats of OpenAI's realtime API.

These are signed 16-bit little-endian PCM at 24 kHz, and both laws of G.711 at 8 kHz.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import av
import numpy as np

from services.audio.pcm import to_float32
from services.audio.resample import Resampler

if TYPE_CHECKING:
    from av.audio.codeccontext import AudioCodecContext

    from services.audio.pcm import Samples

LiveFormat: TypeAlias = Literal["audio/pcm", "audio/pcmu", "audio/pcma"]

LIVE_RATE_HZ: Final[dict[LiveFormat, int]] = {
    "audio/pcm": 24_000,
    "audio/pcmu": 8_000,
    "audio/pcma": 8_000,
}
"""The one rate of each format."""

_SAMPLE_BYTES: Final = 2
_LAWS: Final[dict[LiveFormat, str]] = {"audio/pcmu": "pcm_mulaw", "audio/pcma": "pcm_alaw"}


class LiveDecoder:
    """Bytes of one live stream to mono float32 at `sample_rate_hz`.

    The concatenated output of `feed` and `finish` is the same however the bytes were cut, even in
    the middle of a sample. About 1 ms is held back until more bytes or `finish`.
    """

    def __init__(self, live_format: LiveFormat, sample_rate_hz: int) -> None:
        self.live_format = live_format
        self.sample_rate_hz = sample_rate_hz
        self._half = b""
        self._law = _law(live_format)
        self._resampler = self._fresh()

    def feed(self, data: bytes) -> Samples:
        """Take bytes; return what is ready, float32 [N]."""
        if self._law is not None:
            return self._resampler.feed(to_float32(_expanded(self._law, data)))
        data = self._half + data
        whole = len(data) - len(data) % _SAMPLE_BYTES
        self._half = data[whole:]
        return self._resampler.feed(to_float32(np.frombuffer(data[:whole], dtype="<i2")))

    def finish(self) -> Samples:
        """Return what was held back, without half a sample; the next `feed` starts a new stream."""
        rest = self._resampler.finish()
        self._half = b""
        self._resampler = self._fresh()
        return rest

    def _fresh(self) -> Resampler:
        return Resampler(LIVE_RATE_HZ[self.live_format], self.sample_rate_hz)


def _law(live_format: LiveFormat) -> AudioCodecContext | None:
    name = _LAWS.get(live_format)
    if name is None:
        return None
    codec: AudioCodecContext = av.CodecContext.create(name, "r")  # type: ignore[assignment]
    codec.sample_rate = LIVE_RATE_HZ[live_format]
    codec.layout = "mono"
    return codec


def _expanded(codec: AudioCodecContext, data: bytes) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    if not data:
        return np.zeros(0, dtype=np.int16)
    frames = codec.decode(av.Packet(data))
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])
