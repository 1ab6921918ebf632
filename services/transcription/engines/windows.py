"""Cutting a stream of audio at its pauses into windows, which a model hears at once.

Without `Cutting`, windows follow one another without a gap: audio that fits into one window is not
cut, longer audio is cut in the best pause. With it, silence is left out and speech is joined.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from services.audio.pcm import Samples
from services.errors import EngineError
from services.transcription.engines.protocol import (
    SAMPLE_RATE_HZ,
    VAD_FRAME_SAMPLES,
    WINDOW_S,
    Cutting,
    SpeechDetector,
)

Window = tuple["Samples", "Timeline"]


_MOST: Final = int(WINDOW_S * SAMPLE_RATE_HZ)
_MOST_FRAMES: Final = _MOST // VAD_FRAME_SAMPLES
_BLOCK: Final = 64 * VAD_FRAME_SAMPLES  # judged at once, whatever the sizes of the pieces
_SILENT: Final = 0.35  # the probability of speech below which a frame belongs to a pause
_WARM_UP_FRAMES: Final = 31  # a second
_GOOD_PAUSE_FRAMES: Final = 8  # a quarter of a second
_LONG_PAUSE_FRAMES: Final = 16  # half a second: a longer one is not better
_CONTEXT: Final = 64  # samples before a frame that the model sees along with it
_STATE: Final = (1, 1, 128)


class SileroDetector:
    """Tells speech from silence; see `SpeechDetector`."""

    def __init__(self) -> None:
        """Start in silence; the first one loads the model, which takes a second."""
        from faster_whisper.vad import get_vad_model  # noqa: PLC0415  heavy

        self._session = get_vad_model().session  # one for all detectors
        self._h = np.zeros(_STATE, dtype=np.float32)
        self._c = np.zeros(_STATE, dtype=np.float32)
        self._known = np.zeros(_CONTEXT, dtype=np.float32)  # the context, and part of a frame

    def feed(self, samples: Samples) -> Sequence[float]:
        """Return P(speech) of each frame that is complete now; see `SpeechDetector.feed`."""
        known = np.concatenate([self._known, samples])
        count = (known.size - _CONTEXT) // VAD_FRAME_SAMPLES
        self._known = known[count * VAD_FRAME_SAMPLES :]
        if not count:
            return []
        every = np.lib.stride_tricks.sliding_window_view(known, _CONTEXT + VAD_FRAME_SAMPLES)
        frames = every[::VAD_FRAME_SAMPLES]
        try:
            speech, self._h, self._c = self._session.run(
                None, {"input": np.ascontiguousarray(frames), "h": self._h, "c": self._c}
            )
        except Exception as error:
            raise EngineError("the speech detector failed", code="engine_failed") from error
        probabilities: list[float] = speech.reshape(-1).tolist()
        return probabilities


@dataclass(frozen=True)
class Timeline:
    """Converts a window's times to the recording's, in whole milliseconds."""

    parts: tuple[tuple[int, int], ...]  # of each its first sample, in the window and the recording
    samples: int  # how many the window has

    @property
    def duration_s(self) -> float:
        """The window's length."""
        return self.samples / SAMPLE_RATE_HZ

    def start_s(self, window_s: float) -> float:
        """Return the time in the recording of what begins at a window's time."""
        return self._at(window_s, window_s, bisect_right)

    def end_s(self, window_s: float) -> float:
        """Return the time in the recording of what ends at a window's time."""
        return self._at(window_s, window_s, bisect_left)

    def inside_s(self, start_s: float, end_s: float) -> tuple[float, float]:
        """Return both times of a word, in the part that contains its middle."""
        middle_s = (start_s + end_s) / 2
        return self._at(start_s, middle_s, bisect_right), self._at(end_s, middle_s, bisect_right)

    def _at(self, window_s: float, place_s: float, side: Callable[[list[int], int], int]) -> float:
        after = side([begin for begin, _ in self.parts], round(place_s * SAMPLE_RATE_HZ))
        begin, start = self.parts[max(after - 1, 0)]
        return round(float(window_s) + (start - begin) / SAMPLE_RATE_HZ, 3)


def windows(
    audio: Iterable[Samples], detector: SpeechDetector, cutting: Cutting | None
) -> Iterator[Window]:
    """Yield the windows of a stream as soon as each is known; only a few are in memory.

    They are float32 [N], at most `WINDOW_S`, each with its timeline.
    `audio` are mono float32 pieces at `SAMPLE_RATE_HZ`, of any sizes; the `detector` is a new one.
    """
    if cutting is None:
        yield from _whole(audio, detector)
    else:
        yield from _joined(_speech(audio, detector, cutting))


def _whole(audio: Iterable[Samples], detector: SpeechDetector) -> Iterator[Window]:
    """Yield windows without gaps; the detector judges only where one may be cut."""
    held = np.zeros(0, dtype=np.float32)
    start = 0  # of what is held, in the recording
    for block in _blocks(audio):
        held = np.concatenate([held, block])
        while held.size > _MOST:
            at = _best_cut(_MOST_FRAMES, partial(_judged, held, detector)) * VAD_FRAME_SAMPLES
            yield held[:at], Timeline(((0, start),), at)
            held = held[at:].copy()
            start += at
    if held.size:
        yield held, Timeline(((0, start),), held.size)


def _speech(
    audio: Iterable[Samples], detector: SpeechDetector, cutting: Cutting
) -> Iterator[tuple[int, Samples]]:
    """Yield the place and the samples of each stretch of speech, at most a window long."""
    padding = _frames(cutting.prefix_padding_ms)
    silence = max(1, _frames(cutting.silence_duration_ms))
    quiet = cutting.end_threshold
    held = np.zeros(0, dtype=np.float32)
    dropped = 0  # frames of the recording before what is held
    speech: list[float] = []  # of what is held
    begin: int | None = None  # the frame of the recording where speech began
    free = 0  # the first frame that is in no stretch
    silent = frame = 0
    for block in _blocks(audio):
        held = np.concatenate([held, block])
        for probability in detector.feed(block):
            speech.append(probability)
            frame += 1
            if begin is None:
                if probability < cutting.threshold:
                    continue
                begin, silent = max(free, frame - 1 - padding), 0
            silent = 0 if probability >= cutting.threshold else silent + (probability < quiet)
            end = None
            if silent >= silence:
                end = frame - silent + min(padding, silent)
            elif frame - begin >= _MOST_FRAMES - 1:  # one less, as part of a frame may be left over
                known = speech[begin - dropped :]
                end = begin + _best_cut(len(known), lambda low, high: known[low:high])  # noqa: B023
            if end is not None:
                first, last = (
                    (begin - dropped) * VAD_FRAME_SAMPLES,
                    (end - dropped) * VAD_FRAME_SAMPLES,
                )
                yield begin * VAD_FRAME_SAMPLES, held[first:last].copy()
                free = end
                begin = None if silent >= silence else end
        keep = begin if begin is not None else max(free, frame - padding)
        held = held[(keep - dropped) * VAD_FRAME_SAMPLES :].copy()
        del speech[: keep - dropped]
        dropped = keep
    if begin is not None:
        yield begin * VAD_FRAME_SAMPLES, held[(begin - dropped) * VAD_FRAME_SAMPLES :]


def _joined(speech: Iterable[tuple[int, Samples]]) -> Iterator[Window]:
    parts: list[tuple[int, int]] = []
    pieces: list[Samples] = []
    size = 0
    for start, samples in speech:
        if pieces and size + samples.size > _MOST:
            yield np.concatenate(pieces), Timeline(tuple(parts), size)
            parts, pieces, size = [], [], 0
        parts.append((size, start))
        pieces.append(samples)
        size += samples.size
    if pieces:
        yield np.concatenate(pieces), Timeline(tuple(parts), size)


def _judged(held: Samples, detector: SpeechDetector, low: int, high: int) -> Sequence[float]:
    """Return P(speech) of some frames; the detector gets a second before them to warm up."""
    begin = low - _WARM_UP_FRAMES
    judged = detector.feed(held[begin * VAD_FRAME_SAMPLES : high * VAD_FRAME_SAMPLES])
    return judged[_WARM_UP_FRAMES:]


def _best_cut(most: int, judge: Callable[[int, int], Sequence[float]]) -> int:
    """Return which of `most` frames to cut before, from `judge(low, high)`, their P(speech).

    That is the middle of the best pause: a good one in the last sixth, since a full window costs a
    model no more; or else one in the last third; or in the second third; or else the quietest frame
    of the last tenth.
    """
    last_sixth, late = 5 * most // 6, 2 * most // 3
    if at := _pause(judge(last_sixth, most), _GOOD_PAUSE_FRAMES):
        return last_sixth + at
    speech = judge(late, most)
    if at := _pause(speech):
        return late + at
    if at := _pause(judge(most // 3, late)):
        return most // 3 + at
    last = range(most - most // 10 - late, most - late)
    return max(1, late + min(last, key=lambda frame: speech[frame], default=0))


def _pause(speech: Sequence[float], least: int = 1) -> int:
    """Return the middle of the best pause of at least so many frames, or 0 if there is none."""
    best, at, begin = least, 0, 0
    for frame in range(len(speech) + 1):
        if frame < len(speech) and speech[frame] < _SILENT:
            continue
        length = min(frame - begin, _LONG_PAUSE_FRAMES)
        if length >= best:
            best, at = length, (begin + frame + 1) // 2
        begin = frame + 1
    return at


def _blocks(audio: Iterable[Samples]) -> Iterator[Samples]:
    """Yield the same samples in blocks of one size, and the rest at the end."""
    held: list[Samples] = []
    size = 0
    for piece in audio:
        held.append(piece)
        size += piece.size
        if size < _BLOCK:
            continue
        known = np.concatenate(held)
        whole = size - size % _BLOCK
        for begin in range(0, whole, _BLOCK):
            yield known[begin : begin + _BLOCK]
        held = [known[whole:].copy()]
        size -= whole
    if size:
        yield np.concatenate(held)


def _frames(duration_ms: int) -> int:
    return round(duration_ms * SAMPLE_RATE_HZ / 1000 / VAD_FRAME_SAMPLES)
