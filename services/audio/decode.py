"""Bounded decoding: bytes of any common audio file to mono float32."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import av
import numpy as np
from av.error import FFmpegError

from services.errors import InvalidRequestError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from services.audio.pcm import Samples

# FFmpeg knows hundreds of formats, and some are lists of other files and addresses to open
# (ffconcat, hls, sdp): only those that hold the sound itself are read, and they open nothing.
_READING: Final = {
    "format_whitelist": "aac,ac3,aiff,amr,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,"
    "mpegts,ogg,w64,wav,webm,wv",
    "protocol_whitelist": "none",
}

_FRAME_S: Final = 60.0  # no codec's frame is longer

MAX_CHANNELS: Final = 8
"""FFmpeg has a way to mix down each layout of so many (7.1), and of few that are larger."""

MIN_RATE_HZ: Final = 1_000
MAX_RATE_HZ: Final = 768_000
"""What recorders make; beyond it a frame unpacks to hours, or a resampler's filter to gigabytes."""


@dataclass(frozen=True)
class Decoded:
    """A file's sound.

    Attributes:
        samples: mono float32 [N], finite.
        sample_rate_hz: of `samples`.
        source_rate_hz: of the file itself; 48000 for every Opus file, which knows no other.
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
        InvalidRequestError: not audio, broken audio, or no sample at all (`invalid_audio`).
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

    @property
    def seconds(self) -> float:
        """How much of the file was decoded up to now."""
        return self._samples / self._rate_hz

    def __iter__(self) -> Iterator[Samples]:
        """Yield what is decoded.

        Raises:
            TooLargeError: the file is longer than `max_seconds`.
            InvalidRequestError: not audio, or broken from here on, or no sample at all
                (`invalid_audio`).
        """
        for piece, _source in _pieces(
            self._data, lambda _source: self._rate_hz, self._max_seconds, self._param
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
        InvalidRequestError: not audio, or broken up to there, or no sample there (`invalid_audio`).
    """
    rate_hz = source_rate_hz = 0
    parts: list[Samples] = []
    place = 0
    most_s = end_s + _FRAME_S
    for piece, at_hz in _pieces(data, lambda at_hz: min(at_hz, max_rate_hz), most_s, param):
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
    parts = list(_pieces(data, rate_for, max_seconds, param))
    if not parts:
        raise _silent(param)
    source_rate_hz = parts[0][1]
    samples = np.concatenate([piece for piece, _ in parts])
    return Decoded(samples, rate_for(source_rate_hz), source_rate_hz)


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
    data: bytes, rate_for: Callable[[int], int], max_seconds: float, param: str
) -> Iterator[tuple[Samples, int]]:
    """Yield float32 [N] pieces at `rate_for` the file's own rate, and that rate."""
    source_rate_hz = 0
    resampler: av.AudioResampler | None = None
    made = False
    try:
        for frame in _frames(data, max_seconds, param):
            if resampler is None:
                source_rate_hz = frame.sample_rate  # a header may say half of it (HE-AAC)
                resampler = av.AudioResampler("flt", "mono", rate_for(source_rate_hz))
            for piece in resampler.resample(frame):
                made = True
                yield _finite(piece.to_ndarray()[0], param), source_rate_hz
        if resampler is not None and made:
            for piece in resampler.resample(None):
                yield _finite(piece.to_ndarray()[0], param), source_rate_hz
    except (FFmpegError, ValueError, ZeroDivisionError) as error:
        raise InvalidRequestError(
            f"{param} is not audio that can be decoded", param=param, code="invalid_audio"
        ) from error


def _finite(samples: Samples, param: str) -> Samples:
    if not np.isfinite(samples).all():
        raise InvalidRequestError(
            f"{param} holds samples that are not finite", param=param, code="invalid_audio"
        )
    return samples


def _frames(data: bytes, max_seconds: float, param: str) -> Iterator[av.AudioFrame]:
    """Yield what the file's first audio stream holds, as it is, up to `max_seconds`."""
    seconds = 0.0
    with av.open(io.BytesIO(data), mode="r", container_options=_READING) as container:
        if not container.streams.audio:
            raise InvalidRequestError(
                f"{param} holds no audio stream", param=param, code="invalid_audio"
            )
        for frame in container.decode(audio=0):
            if frame.layout.nb_channels > MAX_CHANNELS:
                raise InvalidRequestError(
                    f"{param} has {frame.layout.nb_channels} channels; at most {MAX_CHANNELS} are "
                    "mixed down",
                    param=param,
                    code="too_many_channels",
                )
            # Before it is resampled: one FLAC frame of 65535 samples at 1 Hz is 18 hours.
            seconds += frame.samples / frame.sample_rate
            if seconds > max_seconds:
                raise TooLargeError(
                    f"{param} is longer than {max_seconds:g} s",
                    param=param,
                    code="audio_too_long",
                )
            if not MIN_RATE_HZ <= frame.sample_rate <= MAX_RATE_HZ:
                raise InvalidRequestError(
                    f"{param} has {frame.sample_rate} samples a second; from {MIN_RATE_HZ} to "
                    f"{MAX_RATE_HZ} are read",
                    param=param,
                    code="unsupported_sample_rate",
                )
            yield frame
