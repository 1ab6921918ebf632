"""Changing the rate or the tempo of a stream: the same samples however the input is cut."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import av
import numpy as np
from av.filter import Graph

from services.audio.pcm import Samples, checked

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCKS_PER_SECOND: Final = 100
_FADE_S: Final = 0.005
_EMPTY: Final = np.zeros(0, dtype=np.float32)
_EMPTY.setflags(write=False)


def frame_of(
    samples: NDArray[Any], sample_rate_hz: int, pts: int = 0, sample_format: str = "flt"
) -> av.AudioFrame:
    """Return mono samples [N] as FFmpeg takes them."""
    data = np.ascontiguousarray(samples)[np.newaxis]
    frame = av.AudioFrame.from_ndarray(data, format=sample_format, layout="mono")
    frame.sample_rate, frame.pts = sample_rate_hz, pts
    return frame


class _Filters:
    """FFmpeg's filters in a row, for mono float32.

    They have no thread: FFmpeg would start some for each chain, and end them with it.
    """

    def __init__(self, sample_rate_hz: int, *filters: tuple[str, str]) -> None:
        self._rate_hz = sample_rate_hz
        self.fed = 0  # samples so far, and those that were made of them
        self.made = 0
        self._graph = graph = Graph()
        graph.threads = 1
        source = graph.add_abuffer(
            sample_rate=sample_rate_hz,
            format="flt",
            layout="mono",
            time_base=Fraction(1, sample_rate_hz),
        )
        row = [graph.add(name, given) for name, given in filters]
        graph.link_nodes(source, *row, graph.add("abuffersink")).configure()

    def push(self, samples: Samples) -> Samples:
        """Take [N], not nothing; return what is ready [M]. Their own end is never asked for."""
        self._graph.push(frame_of(samples, self._rate_hz, self.fed))
        self.fed += samples.size
        parts = [_EMPTY]
        while True:
            try:
                made: Any = self._graph.pull()
            except av.BlockingIOError:  # they need more input first
                return np.concatenate(parts) if len(parts) > 2 else parts[-1]  # noqa: PLR2004
            parts.append(made.to_ndarray()[0])
            self.made += parts[-1].size


class Resampler:
    """Mono float32 from one rate to another, piece by piece (FFmpeg's aresample).

    The concatenated output of `feed` and `finish` is the same, bit for bit, however the input was
    cut, and lasts as long as the input to within one sample. About 1 ms is held back until more
    input or `finish`. Equal rates pass through untouched.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self.from_hz = from_hz
        self.to_hz = to_hz
        self._filters = None if from_hz == to_hz else _Filters(from_hz, ("aresample", str(to_hz)))

    def feed(self, samples: Samples) -> Samples:
        """Take float32 [N] at `from_hz`; return what is ready, float32 [M] at `to_hz`."""
        samples = checked(samples)
        if self._filters is None or not samples.size:
            return samples
        return self._filters.push(samples)

    def finish(self) -> Samples:
        """Return the samples held back; feed nothing afterwards."""
        if self._filters is None or not self._filters.fed:
            return _EMPTY
        # Silence pushes out everything due, and whatever the silence itself made is cut off. The
        # filter holds back some samples of the lower of the two rates.
        due = round(self._filters.fed * self.to_hz / self.from_hz) - self._filters.made
        silence = self.from_hz // 50 + 64 + 32 * self.from_hz // self.to_hz
        return self._filters.push(np.zeros(silence, dtype=np.float32))[:due]


class TimeStretch:
    """Mono float32 at one rate, played `speed` times as fast at the same pitch (FFmpeg's atempo).

    The concatenated output of `feed` and `finish` is the same, bit for bit, however the input was
    cut. It is `round(fed / speed)` samples long, and its last 5 ms fade out. What is heard at a
    moment of the output was at `speed` times that moment of the input, to within about 30 ms of
    input, 90 ms above a speed of 2. A speed of 1 passes the very same arrays through.

    Input needed before the first output, measured at 22.05 and 24 kHz: 50 to 70 ms at speeds from
    0.5 to 2, 70 to 90 ms below, 110 to 210 ms above. Instances share nothing.
    """

    def __init__(self, sample_rate_hz: int, speed: float) -> None:
        """Stretch audio to 1/`speed` of its duration; `speed` is within `SPEED_RANGE`.

        Below a rate of 8000, atempo's windows are shorter than a period of a voice.
        """
        self.sample_rate_hz = sample_rate_hz
        self.speed = speed
        # One filter goes down to 0.5; above 2 it would skip samples instead of blending them.
        tempi = [speed] if 0.5 <= speed <= 2.0 else [speed**0.5] * 2  # noqa: PLR2004
        # Frames of one size, since atempo returns nothing for very short ones.
        blocks = ("asetnsamples", f"n={sample_rate_hz // _BLOCKS_PER_SECOND}:p=0")
        filters = [("atempo", f"{tempo:.9f}") for tempo in tempi]
        self._filters = None if speed == 1.0 else _Filters(sample_rate_hz, blocks, *filters)

    def feed(self, samples: Samples) -> Samples:
        """Take float32 [N]; return what is ready, float32 [M]."""
        samples = checked(samples)
        if self._filters is None or not samples.size:
            return samples
        return self._filters.push(samples)

    def finish(self) -> Samples:
        """Return the samples held back; feed nothing afterwards."""
        if self._filters is None:
            return _EMPTY
        # Silence pushes out everything due; atempo's own end is up to 75 ms off.
        due = round(self._filters.fed / self.speed) - self._filters.made
        silence = np.zeros(self.sample_rate_hz // _BLOCKS_PER_SECOND, dtype=np.float32)
        parts = [_EMPTY]
        ready = 0
        while ready < due:
            parts.append(self._filters.push(silence))
            ready += parts[-1].size
        last = np.concatenate(parts)[: max(due, 0)]
        # The length may cut anywhere within the last wave, wherever the input ended.
        fade = min(last.size, int(self.sample_rate_hz * _FADE_S))
        last[last.size - fade :] *= np.linspace(1.0, 0.0, fade, dtype=np.float32)
        return last
