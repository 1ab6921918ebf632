"""Decoding to mono float32: any common audio file, within bounds, and live streams.

Like FFmpeg's own programs, this skips bytes between two concatenated files, packets that do not
decode, and a missing end. The frames of a file may change their rate, channels and format.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any, Final

import av
import numpy as np
from av.error import FFmpegError

from services.audio.formats import LIVE_RATE_HZ, LiveFormat
from services.audio.pcm import Samples, to_float32
from services.audio.resample import Resampler
from services.errors import InvalidRequestError, TooLargeError

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer


log = logging.getLogger("bentovox.audio")

# Some of FFmpeg's hundreds of formats are lists of other files and addresses to open (ffconcat,
# hls, sdp). Only formats that contain the audio itself are read, and they may open nothing.
_READING: Final = {
    "format_whitelist": "aac,ac3,aiff,amr,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,"
    "mpegts,ogg,w64,wav,webm,wv",
    "protocol_whitelist": "none",
}
_FRAME_S: Final = 60.0  # no codec has longer frames
_MOST_FAULTS: Final = 100  # of a container in a row, before the rest is given up
_LEAST_MISSING_S: Final = 1.0  # encoders' own counts are off by less
# FFmpeg's names of formats that state their length; for the others it guesses.
_TELL_LENGTH: Final = frozenset({"aiff", "caf", "flac", "mov", "matroska", "ogg", "w64", "wav"})

_LIVE_CODECS: Final[dict[LiveFormat, str]] = {
    "audio/pcm": "pcm_s16le",
    "audio/pcmu": "pcm_mulaw",
    "audio/pcma": "pcm_alaw",
}

MAX_CHANNELS: Final = 8
"""FFmpeg can mix down every layout up to 7.1, but few that are larger."""

MIN_RATE_HZ: Final = 1_000
MAX_RATE_HZ: Final = 768_000
"""Beyond these, one frame could last for hours, or a resampler's filter take gigabytes."""


@dataclass(frozen=True)
class Decoded:
    """A file's sound."""

    samples: Samples  # mono float32 [N], finite
    sample_rate_hz: int
    source_rate_hz: int  # of the start of the file; always 48000 for Opus, which stores no other


class Decoding:
    """A file's sound, decoded while it is read: hours of it take no more memory than a second.

    Iterating yields mono float32 [N] pieces at `rate_hz`, once, without broken ones. Errors name
    the field `param`.
    """

    def __init__(
        self,
        data: bytes,
        *,
        max_seconds: float,
        sample_rate_hz: int = 0,
        most_hz: int = 48_000,
        param: str = "file",
    ) -> None:
        """Decode at `sample_rate_hz`, or with 0 at the file's own rate, up to `most_hz`."""
        self.rate_hz = sample_rate_hz
        self.source_rate_hz = 0  # of the first frame; a header may state half of it (HE-AAC)
        self.broken_s = self.missing_s = 0.0  # the latter is known at the end
        self._samples = 0
        self._data = data
        self._param = param
        self._max_seconds = max_seconds
        self._most_hz = most_hz

    @property
    def seconds(self) -> float:
        """How much has been decoded so far."""
        return self._samples / self.rate_hz

    @property
    def lost_s(self) -> float:
        """How much of the file is known to be broken or missing; final once all of it is read."""
        return self.broken_s + self.missing_s

    def __iter__(self) -> Iterator[Samples]:
        """Yield the decoded pieces; the file's bytes are freed at its end.

        TooLargeError if the file is longer than `max_seconds`; InvalidRequestError if it is not
        audio, or has not a single sample.
        """
        for (_, _, rate_hz), frames in groupby(
            self._frames(), lambda frame: (frame.format.name, frame.layout.name, frame.sample_rate)
        ):
            self.source_rate_hz = self.source_rate_hz or rate_hz
            self.rate_hz = self.rate_hz or min(rate_hz, self._most_hz)
            resampler = av.AudioResampler("flt", "mono", self.rate_hz)
            for frame in chain(frames, [None]):
                yield from self._resampled(resampler, frame)
        if not self._samples:
            raise _invalid(self._param, "contains no samples")

    def decoded(self, parts: list[Samples]) -> Decoded:
        """Return pieces as one sound, in which there must be a sample."""
        samples = np.concatenate([np.zeros(0, dtype=np.float32), *parts])
        if not samples.size:
            raise _invalid(self._param, "contains no samples")
        return Decoded(samples, self.rate_hz, self.source_rate_hz)

    def _resampled(
        self, resampler: av.AudioResampler, frame: av.AudioFrame | None
    ) -> Iterator[Samples]:
        """Yield what the resampler makes of a frame, or with None, what it held back."""
        try:
            made = resampler.resample(frame)
        except (FFmpegError, ValueError):  # a layout that cannot be mixed down
            made = []
        for one in made:
            samples = one.to_ndarray()[0]
            if np.isfinite(samples).all():
                self._samples += samples.size
                yield samples
            else:
                self.broken_s += samples.size / self.rate_hz

    def _frames(self) -> Iterator[av.AudioFrame]:
        param, data, self._data = self._param, io.BytesIO(self._data), b""
        seconds = 0.0
        try:
            with av.open(data, mode="r", container_options=_READING) as container:
                if not container.streams.audio:
                    raise _invalid(param, "contains no audio stream")
                stream = container.streams.audio[0]
                for frame in self._decodable(container, stream):
                    if (fault := _fault(frame, param)) is not None:
                        if not seconds:
                            raise fault
                        continue
                    # Checked before resampling: one frame may last many seconds.
                    seconds += frame.samples / frame.sample_rate
                    if seconds > self._max_seconds:
                        raise TooLargeError(
                            f"{param} is longer than {self._max_seconds:g} s",
                            param=param,
                            code="audio_too_long",
                        )
                    yield frame
                announced_s = _announced_s(container, stream)
        except (FFmpegError, ValueError) as error:
            raise _invalid(param, "is not audio that can be decoded") from error
        missing_s = announced_s - seconds - self.broken_s
        self.missing_s = missing_s if seconds and missing_s > _LEAST_MISSING_S else 0.0
        if self.broken_s or self.missing_s:
            log.info(
                "of %s %.2f s were decoded, %.2f s are broken and %.2f s are missing",
                *(param, seconds, self.broken_s, self.missing_s),
            )

    def _decodable(self, container: InputContainer, stream: AudioStream) -> Iterator[av.AudioFrame]:
        """Yield the stream's frames, reading on after what makes no sense."""
        faults = 0
        while faults <= _MOST_FAULTS:
            try:
                for packet in container.demux(stream):
                    faults = 0
                    try:
                        yield from packet.decode()
                    except (FFmpegError, ValueError):
                        if packet.duration and packet.time_base:
                            self.broken_s += float(packet.duration * packet.time_base)
            except FFmpegError:
                faults += 1
            else:
                return


def _fault(frame: av.AudioFrame, param: str) -> InvalidRequestError | None:
    """Return why a frame is not used, or None."""
    channels, rate_hz = frame.layout.nb_channels, frame.sample_rate
    if channels > MAX_CHANNELS:
        what = f"has {channels} channels; at most {MAX_CHANNELS} are mixed down"
        return _invalid(param, what, "too_many_channels")
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        what = f"has {rate_hz} samples a second; from {MIN_RATE_HZ} to {MAX_RATE_HZ} are read"
        return _invalid(param, what, "unsupported_sample_rate")
    return None


def _announced_s(container: InputContainer, stream: AudioStream) -> float:
    """Return the length that the file states, or 0 if it states none."""
    if not _TELL_LENGTH & set(container.format.name.split(",")):
        return 0.0
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    # Matroska states one length for all streams, and a film may be longer than its sound.
    if container.duration is None or len(container.streams) > 1:
        return 0.0
    return container.duration / av.time_base


def decode_as_is(data: bytes, *, max_seconds: float = 600.0, param: str = "file") -> Decoded:
    """Decode a file at its own rate, or at 48 kHz if that is lower.

    The length is checked while decoding, so a small file that unpacks to hours costs at most
    `max_seconds` of work. Errors name the field `param`: TooLargeError if it is longer,
    InvalidRequestError if it is not audio, more broken than whole, or has not a single sample.
    """
    decoding = Decoding(data, max_seconds=max_seconds, param=param)
    sound = decoding.decoded([*decoding])
    broken_s, whole_s = decoding.broken_s, decoding.seconds
    if broken_s > whole_s:
        what = f"is broken: {broken_s:.1f} s of it cannot be decoded, and {whole_s:.1f} s can"
        raise _invalid(param, what)
    return sound


def excerpt(data: bytes, start_s: float, end_s: float, *, max_rate_hz: int = 48_000) -> Decoded:
    """Decode from `start_s` to `end_s`, at the file's own rate or `max_rate_hz` if that is lower.

    Everything before is decoded and dropped; nothing after is read. InvalidRequestError if it is
    not audio, or there is no sample in that range.
    """
    decoding = Decoding(data, max_seconds=end_s + _FRAME_S, most_hz=max_rate_hz)
    parts = []
    place = 0
    for piece in decoding:
        begin, end = int(start_s * decoding.rate_hz), int(end_s * decoding.rate_hz)
        parts.append(piece[max(0, begin - place) : max(0, end - place)])
        place += piece.size
        if place >= end:
            break
    return decoding.decoded(parts)


def _invalid(param: str, what: str, code: str = "invalid_audio") -> InvalidRequestError:
    return InvalidRequestError(f"{param} {what}", param=param, code=code)


class LiveDecoder:
    """Bytes of one live stream, in a format of OpenAI's realtime API, to mono float32.

    These are signed 16-bit little-endian PCM at 24 kHz, and both laws of G.711 at 8 kHz.
    The concatenated output of `feed` and `finish` is the same however the bytes were cut, even in
    the middle of a sample. About 1 ms is held back until more bytes or `finish`.
    """

    def __init__(self, live_format: LiveFormat, sample_rate_hz: int) -> None:
        self._rate_hz = LIVE_RATE_HZ[live_format]
        self._sample_bytes = 2 if live_format == "audio/pcm" else 1
        self.bytes_per_s = self._rate_hz * self._sample_bytes
        codec: Any = av.CodecContext.create(_LIVE_CODECS[live_format], "r")
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
