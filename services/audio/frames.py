"""The frames of an audio file, without the broken ones.

Like FFmpeg's own programs, this skips bytes between two concatenated files, packets that do not
decode, and a missing end. Frames may change their rate, channels and format.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import av
from av.error import FFmpegError

from services.errors import InvalidRequestError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Iterator

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

FRAME_S: Final = 60.0
"""No codec has longer frames."""

_MOST_FAULTS: Final = 100  # of a container in a row, before the rest is given up
_LEAST_MISSING_S: Final = 1.0  # encoders' own counts are off by less
_TELL_LENGTH: Final = frozenset({"aiff", "caf", "flac", "mov", "matroska", "ogg", "w64", "wav"})
"""FFmpeg's names of formats that state their length; for the others it guesses."""

MAX_CHANNELS: Final = 8
"""FFmpeg can mix down every layout up to 7.1, but few that are larger."""

MIN_RATE_HZ: Final = 1_000
MAX_RATE_HZ: Final = 768_000
"""Beyond these, one frame could last for hours, or a resampler's filter take gigabytes."""


@dataclass
class Loss:
    """How much of a file is lost, as far as that shows; final once all of it is decoded.

    Attributes:
        broken_s: seconds that are there but do not decode.
        missing_s: further seconds that the file announces and lacks.
    """

    broken_s: float = 0.0
    missing_s: float = 0.0


def frames(data: bytes, max_seconds: float, param: str, loss: Loss) -> Iterator[av.AudioFrame]:
    """Yield the frames of the file's first audio stream; count what is lost in `loss`.

    Raises:
        TooLargeError: it is longer than `max_seconds`.
        InvalidRequestError: not audio (`invalid_audio`), or it begins with a frame of too many
            channels or an unsupported rate.
    """
    seconds = 0.0
    try:
        with av.open(io.BytesIO(data), mode="r", container_options=_READING) as container:
            stream = _stream(container, param)
            for frame in _decoded(container, stream, loss):
                if (fault := _fault(frame, param)) is not None:
                    if not seconds:
                        raise fault
                    continue
                # Checked before resampling: one frame may last many seconds.
                seconds += frame.samples / frame.sample_rate
                if seconds > max_seconds:
                    raise TooLargeError(
                        f"{param} is longer than {max_seconds:g} s",
                        param=param,
                        code="audio_too_long",
                    )
                yield frame
            announced_s = _announced_s(container, stream)
    except (FFmpegError, ValueError) as error:
        raise InvalidRequestError(
            f"{param} is not audio that can be decoded", param=param, code="invalid_audio"
        ) from error
    missing_s = announced_s - seconds - loss.broken_s
    loss.missing_s = missing_s if seconds and missing_s > _LEAST_MISSING_S else 0.0
    if loss.broken_s or loss.missing_s:
        log.info(
            "of %s %.2f s were decoded, %.2f s are broken and %.2f s are missing",
            param,
            seconds,
            loss.broken_s,
            loss.missing_s,
        )


def _stream(container: InputContainer, param: str) -> AudioStream:
    if not container.streams.audio:
        raise InvalidRequestError(
            f"{param} contains no audio stream", param=param, code="invalid_audio"
        )
    return container.streams.audio[0]


def _decoded(container: InputContainer, stream: AudioStream, loss: Loss) -> Iterator[av.AudioFrame]:
    for packet in _packets(container, stream):
        try:
            yield from packet.decode()
        except (FFmpegError, ValueError):
            if packet.duration and packet.time_base:
                loss.broken_s += float(packet.duration * packet.time_base)


def _packets(container: InputContainer, stream: AudioStream) -> Iterator[av.Packet[AudioStream]]:
    """Yield a stream's packets, reading on after what the container cannot make sense of."""
    faults = 0
    while True:
        try:
            for packet in container.demux(stream):
                faults = 0
                yield packet
        except FFmpegError:
            faults += 1
            if faults > _MOST_FAULTS:
                return
        else:
            return


def _fault(frame: av.AudioFrame, param: str) -> InvalidRequestError | None:
    """Return why a frame is not used, or None."""
    if frame.layout.nb_channels > MAX_CHANNELS:
        return InvalidRequestError(
            f"{param} has {frame.layout.nb_channels} channels; at most {MAX_CHANNELS} are "
            "mixed down",
            param=param,
            code="too_many_channels",
        )
    if not MIN_RATE_HZ <= frame.sample_rate <= MAX_RATE_HZ:
        return InvalidRequestError(
            f"{param} has {frame.sample_rate} samples a second; from {MIN_RATE_HZ} to "
            f"{MAX_RATE_HZ} are read",
            param=param,
            code="unsupported_sample_rate",
        )
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
