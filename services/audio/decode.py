"""Decoding of any common audio file to mono float32, within bounds; broken parts are skipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import av
import numpy as np
from av.error import FFmpegError

from services.audio.frames import FRAME_S, Loss, frames
from services.errors import InvalidRequestError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from services.audio.pcm import Samples


class Decoding:
    """A file's sound, decoded while it is read: hours of it take no more memory than a second.

    Iterating yields mono float32 [N] pieces at `sample_rate_hz`, once. Errors name `file`.
    """

    def __init__(self, data: bytes, *, sample_rate_hz: int, max_seconds: float) -> None:
        self._data = data
        self._max_seconds = max_seconds
        self._rate_hz = sample_rate_hz
        self._mixer = _Mixer(lambda _source: sample_rate_hz)
        self._samples = 0

    @property
    def seconds(self) -> float:
        """How much has been decoded so far."""
        return self._samples / self._rate_hz

    @property
    def lost_s(self) -> float:
        """How much of the file is known to be broken or missing; final once all of it is read."""
        return self._mixer.loss.broken_s + self._mixer.loss.missing_s

    def __iter__(self) -> Iterator[Samples]:
        """Yield the decoded pieces; the file's bytes are freed at its end.

        Raises:
            TooLargeError: the file is longer than `max_seconds`.
            InvalidRequestError: not audio, or not a single sample (`invalid_audio`).
        """
        data, self._data = self._data, b""
        for piece in self._mixer.pieces(data, self._max_seconds, "file"):
            self._samples += piece.size
            yield piece
        if not self._samples:
            raise _silent("file")


@dataclass(frozen=True)
class Decoded:
    """A file's sound.

    Attributes:
        samples: mono float32 [N], finite.
        sample_rate_hz: of `samples`.
        source_rate_hz: of the start of the file; always 48000 for Opus, which stores no other.
    """

    samples: Samples
    sample_rate_hz: int
    source_rate_hz: int


def decode_as_is(
    data: bytes,
    *,
    max_seconds: float = 600.0,
    max_bytes: int = 25 * 1024 * 1024,
    param: str = "file",
) -> Decoded:
    """Decode a file at its own rate, or at 48 kHz if that is lower.

    The size is checked before anything is parsed, and the length while decoding, so a small file
    that unpacks to hours costs at most `max_seconds` of work. Errors name the field `param`.

    Raises:
        TooLargeError: more than `max_bytes`, or more than `max_seconds` of audio.
        InvalidRequestError: not audio, more broken than whole, or not a single sample
            (`invalid_audio`).
    """
    if len(data) > max_bytes:
        raise TooLargeError(
            f"{param} has {len(data)} bytes; at most {max_bytes} are accepted",
            param=param,
            code="audio_too_large",
        )
    mixer = _Mixer(lambda source_hz: min(source_hz, 48_000))
    parts = list(mixer.pieces(data, max_seconds, param))
    if not parts:
        raise _silent(param)
    samples, broken_s = np.concatenate(parts), mixer.loss.broken_s
    if broken_s > samples.size / mixer.rate_hz:
        raise InvalidRequestError(
            f"{param} is broken: {broken_s:.1f} s of it cannot be decoded, and "
            f"{samples.size / mixer.rate_hz:.1f} s can",
            param=param,
            code="invalid_audio",
        )
    return Decoded(samples, mixer.rate_hz, mixer.source_rate_hz)


def excerpt(data: bytes, start_s: float, end_s: float, *, max_rate_hz: int = 48_000) -> Decoded:
    """Decode from `start_s` to `end_s`, at the file's own rate or `max_rate_hz` if that is lower.

    Everything before is decoded and dropped; nothing after is read.

    Raises:
        InvalidRequestError: not audio, or no sample in that range (`invalid_audio`).
    """
    mixer = _Mixer(lambda source_hz: min(source_hz, max_rate_hz))
    parts = [np.zeros(0, dtype=np.float32)]
    place = 0
    for piece in mixer.pieces(data, end_s + FRAME_S, "file"):
        begin, end = int(start_s * mixer.rate_hz), int(end_s * mixer.rate_hz)
        parts.append(piece[max(0, begin - place) : max(0, end - place)])
        place += piece.size
        if place >= end:
            break
    samples = np.concatenate(parts)
    if not samples.size:
        raise _silent("file")
    return Decoded(samples, mixer.rate_hz, mixer.source_rate_hz)


def _silent(param: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param} contains no samples", param=param, code="invalid_audio")


class _Mixer:
    """Mixes a file down to mono at one rate, whatever format its frames change to midway.

    Attributes:
        source_rate_hz: the rate of the first frame; a header may state half of it (HE-AAC).
        rate_hz: of the pieces: `rate_for` the first frame's.
        loss: what could not be decoded.
    """

    def __init__(self, rate_for: Callable[[int], int]) -> None:
        self.source_rate_hz = self.rate_hz = 0
        self.loss = Loss()
        self._rate_for = rate_for

    def pieces(self, data: bytes, max_seconds: float, param: str) -> Iterator[Samples]:
        """Yield float32 [N] pieces, without broken ones."""
        setup: tuple[str, str, int] | None = None
        resampler: av.AudioResampler | None = None
        for frame in frames(data, max_seconds, param, self.loss):
            if not self.rate_hz:
                self.source_rate_hz = frame.sample_rate
                self.rate_hz = self._rate_for(frame.sample_rate)
            before, setup = setup, (frame.format.name, frame.layout.name, frame.sample_rate)
            if resampler is None or setup != before:
                yield from self._resampled(resampler, None)
                resampler = av.AudioResampler("flt", "mono", self.rate_hz)
            yield from self._resampled(resampler, frame)
        yield from self._resampled(resampler, None)

    def _resampled(
        self, resampler: av.AudioResampler | None, frame: av.AudioFrame | None
    ) -> Iterator[Samples]:
        """Yield what the resampler makes of a frame, or with None, what it held back."""
        try:
            made = resampler.resample(frame) if resampler is not None else []
        except (FFmpegError, ValueError):  # a layout that cannot be mixed down
            made = []
        for one in made:
            samples = one.to_ndarray()[0]
            if np.isfinite(samples).all():
                yield samples
            else:
                self.loss.broken_s += samples.size / self.rate_hz
