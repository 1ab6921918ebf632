"""Streaming resampling: the same samples however the input is cut."""

from __future__ import annotations

import av
import numpy as np

from services.audio.pcm import Samples, checked

_EMPTY = np.zeros(0, dtype=np.float32)
_EMPTY.setflags(write=False)


class Resampler:
    """Mono float32 from one rate to another, piece by piece (libswresample through PyAV).

    The concatenated output of `feed` and `finish` is the same, bit for bit, however the input was
    cut, and lasts as long as the input to within one sample. About 1 ms is held back until more
    input or `finish`. Equal rates pass through untouched.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self.from_hz = from_hz
        self.to_hz = to_hz
        self._fed = 0
        self._made = 0
        self._swr = None if from_hz == to_hz else av.AudioResampler("flt", "mono", to_hz)

    def feed(self, samples: Samples) -> Samples:
        """Take float32 [N] at `from_hz`; return what is ready, float32 [M] at `to_hz`.

        Raises:
            EngineError: samples that are not mono or not finite.
        """
        samples = checked(samples)
        if self._swr is None or not samples.size:
            return samples
        data = np.ascontiguousarray(samples, dtype=np.float32)[np.newaxis]
        frame = av.AudioFrame.from_ndarray(data, format="flt", layout="mono")
        frame.sample_rate = self.from_hz
        frame.pts = self._fed
        self._fed += samples.size
        return self._joined(self._swr.resample(frame))

    def finish(self) -> Samples:
        """Return the samples held back; feed nothing afterwards."""
        if self._swr is None or not self._fed:
            return _EMPTY
        # libswresample drops an input shorter than its filter: silence pushes out everything due,
        # and whatever the silence itself made is cut off.
        due = round(self._fed * self.to_hz / self.from_hz) - self._made
        silence = np.zeros(self.from_hz // 50 + 64, dtype=np.float32)
        return np.concatenate([self.feed(silence), self._joined(self._swr.resample(None))])[:due]

    def _joined(self, frames: list[av.AudioFrame]) -> Samples:
        parts = [frame.to_ndarray()[0] for frame in frames]
        if not parts:
            return _EMPTY
        joined: Samples = np.concatenate(parts) if len(parts) > 1 else parts[0]
        self._made += joined.size
        return joined
