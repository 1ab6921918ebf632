"""Bounded decoding: bytes of any common audio file to mono float32, without what is broken."""

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


@dataclass(frozen=True)
class Decoded:
    """A file's sound.

    Attributes:
        samples: mono float32 [N], finite.
        sample_rate_hz: of `samples`.
        source_rate_hz: of the file itself, where it begins; 48000 for every Opus file, which knows
            no other.
    """

    samples: Samples
    sample_rate_hz: int
    source_rate_hz: int


def decode(
    data: bytes,
    *,
    sample_rate_hz: int,
    max_seconds: float = 600.0,
    max_bytes: int = 25 * 1024 * 1024,
    param: str = "file",
) -> Samples:
    """Decode a file's audio to float32 [N] at `sample_rate_hz`, mixed down to mono.

    The size is checked before anything is parsed, the length while decoding, so that a small
    file that unpacks to hours costs at most `max_seconds` of work. `param` names the field at
    fault in errors.

    Raises:
        TooLargeError: more than `max_bytes`, or more than `max_seconds` of audio.
        InvalidRequestError: not audio, more of it broken than whole, or no sample at all
            (`invalid_audio`).
    """
    return _decode(data, lambda _source: sample_rate_hz, max_seconds, max_bytes, param).samples


class Decoding:
    """A file's sound while it is decoded, so that hours of it take no more memory than a second.

    Iterating yields float32 [N] pieces, mono, at `sample_rate_hz`; it can be done once.
    """

    def __init__(
        self,
        data: bytes,
        *,
        sample_rate_hz: int,
        max_seconds: float,
        max_bytes: int,
        param: str = "file",
    ) -> None:
        """Decode `data` within the bounds of `decode`.

        Raises:
            TooLargeError: more than `max_bytes`.
        """
        _check_size(data, max_bytes, param)
        self._samples = 0
        self._data = data
        self._rate_hz = sample_rate_hz
        self._max_seconds = max_seconds
        self._param = param
        self._loss = Loss()

    @property
    def seconds(self) -> float:
        """How much of the file was decoded up to now."""
        return self._samples / self._rate_hz

    @property
    def lost_s(self) -> float:
        """How much of the file is broken or missing, as far as it shows; known at its end."""
        return self._loss.broken_s + self._loss.missing_s

    def __iter__(self) -> Iterator[Samples]:
        """Yield what is decoded; the file's bytes are let go at its end.

        Raises:
            TooLargeError: the file is longer than `max_seconds`.
            InvalidRequestError: not audio, or no sample at all (`invalid_audio`).
        """
        data, self._data = self._data, b""
        for piece, _source in _pieces(
            data, lambda _source: self._rate_hz, self._max_seconds, self._param, self._loss
        ):
            self._samples += piece.size
            yield piece
        if not self._samples:
            raise _silent(self._param)


def decode_as_is(
    data: bytes,
    *,
    max_rate_hz: int = 48_000,
    max_seconds: float = 600.0,
    max_bytes: int = 25 * 1024 * 1024,
    param: str = "file",
) -> Decoded:
    """Decode a file's audio at its own rate, or at `max_rate_hz` where that is less; as `decode`.

    Raises:
        ServiceError: as for `decode`.
    """
    return _decode(data, lambda source: min(source, max_rate_hz), max_seconds, max_bytes, param)


def excerpt(
    data: bytes, start_s: float, end_s: float, *, max_rate_hz: int = 48_000, param: str = "file"
) -> Decoded:
    """Decode what is heard from `start_s` to `end_s`, at its own rate or `max_rate_hz`.

    What stands before is decoded and dropped, what stands behind is not looked at.

    Raises:
        InvalidRequestError: not audio, or no sample there (`invalid_audio`).
    """
    rate_hz = source_rate_hz = 0
    parts: list[Samples] = []
    place = 0
    most_s = end_s + FRAME_S
    for piece, at_hz in _pieces(data, lambda at_hz: min(at_hz, max_rate_hz), most_s, param, Loss()):
        source_rate_hz, rate_hz = at_hz, min(at_hz, max_rate_hz)
        begin, end = int(start_s * rate_hz), int(end_s * rate_hz)
        parts.append(piece[max(0, begin - place) : max(0, end - place)])
        place += piece.size
        if place >= end:
            break
    samples = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
    if not samples.size:
        raise _silent(param)
    return Decoded(samples, rate_hz, source_rate_hz)


def _decode(
    data: bytes,
    rate_for: Callable[[int], int],
    max_seconds: float,
    max_bytes: int,
    param: str,
) -> Decoded:
    _check_size(data, max_bytes, param)
    loss = Loss()
    parts = list(_pieces(data, rate_for, max_seconds, param, loss))
    if not parts:
        raise _silent(param)
    source_rate_hz = parts[0][1]
    rate_hz = rate_for(source_rate_hz)
    samples = np.concatenate([piece for piece, _ in parts])
    if loss.broken_s > samples.size / rate_hz:
        raise InvalidRequestError(
            f"{param} is broken: {loss.broken_s:.1f} s of it cannot be decoded, and "
            f"{samples.size / rate_hz:.1f} s can",
            param=param,
            code="invalid_audio",
        )
    return Decoded(samples, rate_hz, source_rate_hz)


def _check_size(data: bytes, max_bytes: int, param: str) -> None:
    if len(data) > max_bytes:
        raise TooLargeError(
            f"{param} has {len(data)} bytes; at most {max_bytes} are accepted",
            param=param,
            code="audio_too_large",
        )


def _silent(param: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param} holds no sample", param=param, code="invalid_audio")


def _pieces(
    data: bytes, rate_for: Callable[[int], int], max_seconds: float, param: str, loss: Loss
) -> Iterator[tuple[Samples, int]]:
    """Yield float32 [N] pieces at `rate_for` the file's first rate, and that rate; fill `loss`."""
    source_rate_hz = 0
    mixer: _Mixer | None = None
    for frame in frames(data, max_seconds, param, loss):
        if mixer is None:  # a header may say half of the rate (HE-AAC), a frame does not
            source_rate_hz = frame.sample_rate
            mixer = _Mixer(rate_for(source_rate_hz), loss)
        for piece in mixer.feed(frame):
            yield piece, source_rate_hz
    if mixer is not None:
        for piece in mixer.finish():
            yield piece, source_rate_hz


class _Mixer:
    """Mixes frames down to mono at one rate, whatever they change to in the middle."""

    def __init__(self, rate_hz: int, loss: Loss) -> None:
        self._rate_hz = rate_hz
        self._loss = loss
        self._setup: tuple[str, str, int] | None = None
        self._resampler: av.AudioResampler | None = None

    def feed(self, frame: av.AudioFrame) -> Iterator[Samples]:
        """Yield float32 [N] pieces as they are ready; nothing of what is broken."""
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
        except (FFmpegError, ValueError):  # a layout that there is no way to mix down
            made = []
        for one in made:
            samples = one.to_ndarray()[0]
            if np.isfinite(samples).all():
                yield samples
            else:
                self._loss.broken_s += samples.size / self._rate_hz
