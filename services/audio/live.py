"""Decoding of audio that arrives in pieces, in the three formats of OpenAI's realtime API.

These are signed 16-bit little-endian PCM at 24 kHz, and both laws of G.711 at 8 kHz.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import av
import numpy as np

from services.audio.formats import LIVE_RATE_HZ
from services.audio.pcm import to_float32
from services.audio.resample import Resampler

if TYPE_CHECKING:
    from services.audio.formats import LiveFormat
    from services.audio.pcm import Samples

_CODECS: Final[dict[LiveFormat, str]] = {
    "audio/pcm": "pcm_s16le",
    "audio/pcmu": "pcm_mulaw",
    "audio/pcma": "pcm_alaw",
}


class LiveDecoder:
    """Bytes of one live stream to mono float32 at `sample_rate_hz`.

    The concatenated output of `feed` and `finish` is the same however the bytes were cut, even in
    the middle of a sample. About 1 ms is held back until more bytes or `finish`.

    Attributes:
        bytes_per_s: of the stream.
    """

    def __init__(self, live_format: LiveFormat, sample_rate_hz: int) -> None:
        self._rate_hz = LIVE_RATE_HZ[live_format]
        self._sample_bytes = 2 if live_format == "audio/pcm" else 1
        self.bytes_per_s = self._rate_hz * self._sample_bytes
        codec: Any = av.CodecContext.create(_CODECS[live_format], "r")
        codec.sample_rate, codec.layout = self._rate_hz, "mono"
        self._codec = codec
        self._to_hz = sample_rate_hz
        self._resampler = Resampler(self._rate_hz, sample_rate_hz)
        self._half = b""

    def feed(self, data: bytes) -> Samples:
        """Take bytes; return what is ready, float32 [N]."""
        data = self._half + data
        whole = len(data) - len(data) % self._sample_bytes
        self._half = data[whole:]
        frames = self._codec.decode(av.Packet(data[:whole])) if whole else []
        parts = [np.zeros(0, dtype=np.int16), *(frame.to_ndarray()[0] for frame in frames)]
        return self._resampler.feed(to_float32(np.concatenate(parts)))

    def finish(self) -> Samples:
        """Return what was held back, without half a sample; the next `feed` starts a new stream."""
        rest = self._resampler.finish()
        self._half = b""
        self._resampler = Resampler(self._rate_hz, self._to_hz)
        return rest
