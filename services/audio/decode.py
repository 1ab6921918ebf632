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
        self._samples = 0
        self._data = data
        self._rate_hz = sample_rate_hz
        self._max_seconds = max_seconds
        self._loss = Loss()

    @property
    def seconds(self) -> float:
        """How much has been decoded so far."""
        return self._samples / self._rate_hz

    @property
    def lost_s(self) -> float:
        """How much of the file is known to be broken or missing; final once all of it is read."""
        return self._loss.broken_s + self._loss.missing_s

    def __iter__(self) -> Iterator[Samples]:
        """Yield the decoded pieces; the file's bytes are freed at its end.

        Raises:
            TooLargeError: the file is longer than `max_seconds`.
            InvalidRequestError: not audio, or not a single sample (`invalid_audio`).
        """
        data, self._data = self._data, b""
        for piece, _source in _pieces(
            data, lambda _source: self._rate_hz, self._max_seconds, "file", self._loss
        ):
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
    max_rate_hz: int = 48_000,
    max_seconds: float = 600.0,
    max_bytes: int = 25 * 1024 * 1024,
    param: str = "file",
) -> Decoded:
    """Decode a file at its own rate, or at `max_rate_hz` if that is lower.

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
    loss = Loss()
    parts = list(_pieces(data, lambda hz: min(hz, max_rate_hz), max_seconds, param, loss))
    if not parts:
        raise _silent(param)
    samples = np.concatenate([piece for piece, _ in parts])
    source_rate_hz = parts[0][1]
    rate_hz = min(source_rate_hz, max_rate_hz)
    if loss.broken_s > samples.size / rate_hz:
        raise InvalidRequestError(
            f"{param} is broken: {loss.broken_s:.1f} s of it cannot be decoded, and "
            f"{samples.size / rate_hz:.1f} s can",
            param=param,
            code="invalid_audio",
        )
    return Decoded(samples, rate_hz, source_rate_hz)


def excerpt(data: bytes, start_s: float, end_s: float, *, max_rate_hz: int = 48_000) -> Decoded:
    """Decode from `start_s` to `end_s`, at the file's own rate or `max_rate_hz` if that is lower.

    Everything before is decoded and dropped; nothing after is read.

    Raises:
        InvalidRequestError: not audio, or no sample in that range (`invalid_audio`).
    """
    rate_hz = source_rate_hz = 0
    parts: list[Samples] = []
    place = 0
    pieces = _pieces(data, lambda hz: min(hz, max_rate_hz), end_s + FRAME_S, "file", Loss())
    for piece, source_rate_hz in pieces:
        rate_hz = min(source_rate_hz, max_rate_hz)
        begin, end = int(start_s * rate_hz), int(end_s * rate_hz)
        parts.append(piece[max(0, begin - place) : max(0, end - place)])
        place += piece.size
        if place >= end:
            break
    samples = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
    if not samples.size:
        raise _silent("file")
    return Decoded(samples, rate_hz, source_rate_hz)


def _silent(param: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param} holds no sample", param=param, code="invalid_audio")


def _pieces(
    data: bytes, rate_for: Callable[[int], int], max_seconds: float, param: str, loss: Loss
) -> Iterator[tuple[Samples, int]]:
    """Yield float32 [N] pieces, each with the file's first rate; `rate_for` that is theirs."""
    source_rate_hz = 0
    mixer: _Mixer | None = None
    for frame in frames(data, max_seconds, param, loss):
        if mixer is None:  # a header may state half the rate (HE-AAC); a frame does not
            source_rate_hz = frame.sample_rate
            mixer = _Mixer(rate_for(source_rate_hz), loss)
        for piece in mixer.feed(frame):
            yield piece, source_rate_hz
    if mixer is not None:
        for piece in mixer.finish():
            yield piece, source_rate_hz


class _Mixer:
    """Mixes frames down to mono at one rate, whatever format they change to midway."""

    def __init__(self, rate_hz: int, loss: Loss) -> None:
        self._rate_hz = rate_hz
        self._loss = loss
        self._setup: tuple[str, str, int] | None = None
        self._resampler: av.AudioResampler | None = None

    def feed(self, frame: av.AudioFrame) -> Iterator[Samples]:
        """Yield float32 [N] pieces as they are ready, without broken ones."""
        setup = (frame.format.name, frame.layout.name, frame.sample_rate)
        if setup != self._setup:
            yield from self.finish()
            self._setup = setup
            self._resampler = av.AudioResampler("flt", "mono", self._rate_hz)
        yield from self._resampled(frame)

    def finish(self) -> Iterator[Samples]:
        """Yield what was held back."""
        if self._resampler is not None:
            yield from self._resampled(None)
            self._resampler = None

    def _resampled(self, frame: av.AudioFrame | None) -> Iterator[Samples]:
        try:
            made = self._resampler.resample(frame) if self._resampler is not None else []
        except (FFmpegError, ValueError):  # a layout that cannot be mixed down
            made = []
        for one in made:
            samples = one.to_ndarray()[0]
            if np.isfinite(samples).all():
                yield samples
            else:
                self._loss.broken_s += samples.size / self._rate_hz
