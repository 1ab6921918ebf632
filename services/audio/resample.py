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
        frame = frame_of(samples, self.from_hz, self._fed)
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


class TimeStretch:
    """Mono float32 at one rate, played `speed` times as fast at the same pitch (FFmpeg's atempo).

    The concatenated output of `feed` and `finish` is the same, bit for bit, however the input was
    cut. It is `round(fed / speed)` samples long, and its last 5 ms fade out. What is heard at a
    moment of the output was at `speed` times that moment of the input, to within about 30 ms of
    input, 90 ms above a speed of 2. A speed of 1 passes the very same arrays through.

    Input needed before the first output, measured at 22.05 and 24 kHz: 50 to 70 ms at speeds from
    0.5 to 2, 70 to 90 ms below, 110 to 210 ms above. There is no thread, and instances share
    nothing.
    """

    def __init__(self, sample_rate_hz: int, speed: float) -> None:
        """Stretch audio to 1/`speed` of its duration; `speed` is within `SPEED_RANGE`.

        Below a rate of 8000, atempo's windows are shorter than a period of a voice.
        """
        self.sample_rate_hz = sample_rate_hz
        self.speed = speed
        self._fed = 0
        self._made = 0
        self._pushed = 0
        self._graph = None if speed == 1.0 else self._connected()

    def _connected(self) -> Graph:
        """Return one or two atempo filters in a row; their own end is never asked for."""
        # One filter goes down to 0.5; above 2 it would skip samples instead of blending them.
        tempi = [self.speed] if 0.5 <= self.speed <= 2.0 else [self.speed**0.5] * 2  # noqa: PLR2004
        graph = Graph()
        source = graph.add_abuffer(
            sample_rate=self.sample_rate_hz,
            format="flt",
            layout="mono",
            time_base=Fraction(1, self.sample_rate_hz),
        )
        # Frames of one size, since atempo returns nothing for very short ones.
        blocks = graph.add("asetnsamples", f"n={self.sample_rate_hz // _BLOCKS_PER_SECOND}:p=0")
        filters = [graph.add("atempo", f"{tempo:.9f}") for tempo in tempi]
        graph.link_nodes(source, blocks, *filters, graph.add("abuffersink")).configure()
        return graph

    def feed(self, samples: Samples) -> Samples:
        """Take float32 [N]; return what is ready, float32 [M].

        Raises:
            EngineError: samples that are not mono or not finite.
        """
        samples = checked(samples)
        if self._graph is None or not samples.size:
            return samples
        self._fed += samples.size
        made = self._push(self._graph, samples)
        self._made += made.size
        return made

    def finish(self) -> Samples:
        """Return the samples held back; feed nothing afterwards."""
        if self._graph is None:
            return _EMPTY
        # Silence pushes out everything due; atempo's own end is up to 75 ms off.
        due = round(self._fed / self.speed) - self._made
        silence = np.zeros(self.sample_rate_hz // _BLOCKS_PER_SECOND, dtype=np.float32)
        parts = [_EMPTY]
        ready = 0
        while ready < due:
            parts.append(self._push(self._graph, silence))
            ready += parts[-1].size
        last = np.concatenate(parts)[: max(due, 0)]
        # The length may cut anywhere within the last wave, wherever the input ended.
        fade = min(last.size, int(self.sample_rate_hz * _FADE_S))
        last[last.size - fade :] *= np.linspace(1.0, 0.0, fade, dtype=np.float32)
        return last

    def _push(self, graph: Graph, samples: Samples) -> Samples:
        graph.push(frame_of(samples, self.sample_rate_hz, self._pushed))
        self._pushed += samples.size
        parts = [_EMPTY]
        while True:
            try:
                made: Any = graph.pull()
            except av.BlockingIOError:  # it needs more input first
                return np.concatenate(parts)
            parts.append(made.to_ndarray()[0])
