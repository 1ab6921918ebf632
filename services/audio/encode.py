"""Incremental encoding to OpenAI's six formats: bytes come out while samples go in.

Everything is mono at 24 kHz (`OUTPUT_RATE_HZ`), which OpenAI defines for pcm. How a decoder's
duration compares with what was fed, measured and held by tests:

| format | container | decoded minus fed |
|---|---|---|
| wav, pcm | none; wav's sizes are 0xFFFFFFFF, "until the end" | 0 |
| flac | FLAC, length unknown in its header | 0 |
| opus | Ogg; pre-skip and the last granule trim the padding | 0 |
| aac | ADTS, which cannot say what is padding | 0 to 2 frames of 1024 samples, 85 ms |
| mp3 | bare MPEG-2 layer III frames, no Xing frame (it needs seeking back) | 0 to 4 of 576, 96 ms |
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, get_args

import av
import numpy as np

from services.audio.pcm import Samples, checked, to_bytes, to_int16
from services.audio.resample import Resampler
from services.errors import InvalidRequestError

AudioFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]

FORMATS: Final[tuple[AudioFormat, ...]] = get_args(AudioFormat)

OUTPUT_RATE_HZ: Final = 24_000

MEDIA_TYPES: Final[dict[AudioFormat, str]] = {
    # What OpenAI answers with. RFC 7845 would call Ogg Opus audio/ogg; clients that dispatch on
    # the content type were written against OpenAI's audio/opus, so that is what they get.
    "mp3": "audio/mpeg",
    "opus": "audio/opus",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


class Encoder(Protocol):
    """Turns mono samples into the bytes of one file, piece by piece."""

    media_type: str

    def feed(self, samples: Samples) -> bytes:
        """Take float32 [N] at the rate given to `open_encoder`; return the bytes now ready.

        Raises:
            EngineError: samples that are not mono or not finite.
        """

    def finish(self) -> bytes:
        """Return the last bytes; the encoder takes no more afterwards."""


def open_encoder(audio_format: AudioFormat, sample_rate_hz: int) -> Encoder:
    """Return a fresh encoder to `audio_format` for samples at `sample_rate_hz`.

    Raises:
        InvalidRequestError: a format that is not one of `FORMATS`.
    """
    if audio_format not in MEDIA_TYPES:
        raise InvalidRequestError(
            f"response_format {audio_format!r} is not one of {', '.join(FORMATS)}",
            param="response_format",
            code="invalid_value",
        )
    if audio_format in ("wav", "pcm"):
        return _PlainEncoder(audio_format, sample_rate_hz)
    return _CodecEncoder(audio_format, sample_rate_hz)


_UNKNOWN_LENGTH: Final = 0xFFFFFFFF


def _wav_header() -> bytes:
    """Return the 44 bytes before 16-bit mono PCM whose length is not known yet."""
    riff = struct.pack("<4sI4s", b"RIFF", _UNKNOWN_LENGTH, b"WAVE")
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, OUTPUT_RATE_HZ, OUTPUT_RATE_HZ * 2, 2, 16)
    return riff + fmt + struct.pack("<4sI", b"data", _UNKNOWN_LENGTH)


class _PlainEncoder:
    """wav and pcm: signed 16-bit little-endian samples, with or without a header."""

    def __init__(self, audio_format: AudioFormat, sample_rate_hz: int) -> None:
        self.media_type = MEDIA_TYPES[audio_format]
        self._resampler = Resampler(sample_rate_hz, OUTPUT_RATE_HZ)
        self._header = _wav_header() if audio_format == "wav" else b""

    def feed(self, samples: Samples) -> bytes:
        header, self._header = self._header, b""
        return header + to_bytes(self._resampler.feed(samples))

    def finish(self) -> bytes:
        header, self._header = self._header, b""
        return header + to_bytes(self._resampler.finish())


class _Sink:
    """A file that can only be written; no seek, so that no muxer can go back and patch."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


@dataclass(frozen=True)
class _Codec:
    muxer: str
    codec: str
    sample_format: str
    bit_rate: int | None
    muxer_options: dict[str, str]
    codec_options: dict[str, str]


# Speech does not gain by the codecs' slow presets; these take about half the time.
_CODECS: Final[dict[str, _Codec]] = {
    "mp3": _Codec(
        muxer="mp3",
        codec="libmp3lame",
        sample_format="fltp",
        bit_rate=128_000,
        muxer_options={"write_xing": "0", "id3v2_version": "0"},
        # Without a bit reservoir no frame waits for the next one.
        codec_options={"compression_level": "7", "reservoir": "0"},
    ),
    "opus": _Codec(
        muxer="ogg",
        codec="libopus",
        sample_format="flt",
        bit_rate=64_000,
        # One page a packet of 20 ms; by default a page holds a second.
        muxer_options={"page_duration": "20000"},
        codec_options={"compression_level": "5"},
    ),
    "aac": _Codec(
        muxer="adts",
        codec="aac",
        sample_format="fltp",
        bit_rate=96_000,
        muxer_options={},
        codec_options={"aac_coder": "fast"},
    ),
    "flac": _Codec(
        muxer="flac",
        codec="flac",
        sample_format="s16",
        bit_rate=None,
        # By default 8 KiB of padding wait in the header for tags that nobody will write.
        muxer_options={"metadata_header_padding": "0"},
        codec_options={"compression_level": "2"},
    ),
}


class _CodecEncoder:
    """mp3, opus, aac and flac through PyAV, every packet flushed as it is made."""

    def __init__(self, audio_format: AudioFormat, sample_rate_hz: int) -> None:
        codec = _CODECS[audio_format]
        self._sample_format = codec.sample_format
        self.media_type = MEDIA_TYPES[audio_format]
        self._resampler = Resampler(sample_rate_hz, OUTPUT_RATE_HZ)
        self._sink = _Sink()
        self._pts = 0
        self._container = av.open(
            self._sink,
            mode="w",
            format=codec.muxer,
            container_options={"flush_packets": "1", "fflags": "+bitexact", **codec.muxer_options},
        )
        # PyAV types the stream by the codec's literal name; here the name is data.
        container: Any = self._container
        self._stream = container.add_stream(
            codec.codec, rate=OUTPUT_RATE_HZ, layout="mono", options=codec.codec_options
        )
        self._stream.format = self._sample_format
        if codec.bit_rate is not None:
            self._stream.bit_rate = codec.bit_rate

    def feed(self, samples: Samples) -> bytes:
        self._encode(self._resampler.feed(checked(samples)))
        return self._sink.take()

    def finish(self) -> bytes:
        self._encode(self._resampler.finish())
        if self._pts:  # without one sample there is nothing to close properly
            self._container.mux(self._stream.encode(None))
            self._container.close()
        return self._sink.take()

    def _encode(self, samples: Samples) -> None:
        if not samples.size:
            return
        data: Any = (
            to_int16(samples) if self._sample_format == "s16" else np.clip(samples, -1.0, 1.0)
        )
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(data)[np.newaxis], format=self._sample_format, layout="mono"
        )
        frame.sample_rate = OUTPUT_RATE_HZ
        frame.pts = self._pts
        self._pts += samples.size
        self._container.mux(self._stream.encode(frame))
