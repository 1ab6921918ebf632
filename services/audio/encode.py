"""Incremental encoding to OpenAI's six formats and G.711: bytes come out while samples go in.

Everything is mono, by default at 24 kHz (`OUTPUT_RATE_HZ`), which is OpenAI's rate for pcm; G.711
is at 8 kHz. How much longer the decoded audio is than what was fed, measured at 24 kHz and checked
by tests:

| format | container | decoded minus fed |
|---|---|---|
| wav, pcm | none; wav's sizes are 0xFFFFFFFF, "until the end", unless it is held back | 0 |
| ulaw, alaw | none | 0 |
| flac | FLAC, length unknown in its header | 0 |
| opus | Ogg; pre-skip and the last granule trim the padding | 0 |
| aac | ADTS, which cannot say what is padding | 0 to 2 frames of 1024 samples, 85 ms |
| mp3 | bare MPEG-2 layer III frames, no Xing frame (it needs seeking back) | 0 to 4 of 576, 96 ms |
"""

from __future__ import annotations

import asyncio
import io
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, get_args

import av
import numpy as np

from services.audio.formats import MEDIA_TYPES, AudioFormat, SampleRate
from services.audio.pcm import Samples, checked, to_int16
from services.audio.resample import Resampler, frame_of
from services.errors import InvalidRequestError

OUTPUT_RATE_HZ: Final = 24_000

_RATES_HZ: Final[dict[str, tuple[int, ...]]] = {
    "opus": (8_000, 16_000, 24_000, 48_000),
    "ulaw": (8_000,),
    "alaw": (8_000,),
}
"""The formats that do not support every rate."""


def output_rate_hz(audio_format: AudioFormat, wanted_hz: int | None) -> int:
    """Return the rate for `audio_format`: `wanted_hz`, or the format's default for None.

    InvalidRequestError if the format does not support `wanted_hz`.
    """
    rates = _RATES_HZ.get(audio_format, get_args(SampleRate))
    if wanted_hz is None:
        return OUTPUT_RATE_HZ if OUTPUT_RATE_HZ in rates else rates[0]
    if wanted_hz not in rates:
        raise InvalidRequestError(
            f"sample_rate {wanted_hz} is not one that {audio_format} has; it has "
            f"{', '.join(map(str, rates))}",
            param="sample_rate",
            code="invalid_value",
        )
    return wanted_hz


_ENCODED_AT_ONCE_S: Final = 0.1  # about a millisecond of work


async def encode(
    samples: Samples,
    sample_rate_hz: int,
    encoder: Encoder,
    send: Callable[[bytes], Awaitable[None]],
) -> None:
    """Encode float32 [N] in steps and `send` each, yielding to other tasks in between."""
    step = int(sample_rate_hz * _ENCODED_AT_ONCE_S)
    for begin in range(0, samples.size, step):
        await send(encoder.feed(samples[begin : begin + step]))
        await asyncio.sleep(0)  # `send` may not yield


class _Sink(bytearray):
    """A write-only file without seek, so that no muxer goes back to patch it."""

    def write(self, data: bytes) -> None:
        self += data

    def take(self) -> bytes:
        taken = bytes(self)
        self.clear()
        return taken


@dataclass(frozen=True)
class _Codec:
    muxer: str
    codec: str
    sample_format: str
    bit_rate: int | None = None
    muxer_options: dict[str, str] = field(default_factory=dict)
    codec_options: dict[str, str] = field(default_factory=dict)
    most_bits: int = 0  # per sample: limits the bit rate at low sample rates


# Speech gains nothing from the codecs' slow presets; these take about half the time.
_CODECS: Final[dict[str, _Codec]] = {
    "mp3": _Codec(
        muxer="mp3",
        codec="libmp3lame",
        sample_format="fltp",
        bit_rate=128_000,
        muxer_options={"write_xing": "0", "id3v2_version": "0"},
        # Without a bit reservoir no frame waits for the next one.
        codec_options={"compression_level": "7", "reservoir": "0"},
        most_bits=8,
    ),
    "opus": _Codec(
        muxer="ogg",
        codec="libopus",
        sample_format="flt",
        bit_rate=64_000,
        # A page per packet of 20 ms; by default a page holds a second.
        muxer_options={"page_duration": "20000"},
        codec_options={"compression_level": "5"},
    ),
    "aac": _Codec(
        muxer="adts",
        codec="aac",
        sample_format="fltp",
        bit_rate=96_000,
        codec_options={"aac_coder": "fast"},
        most_bits=4,
    ),
    "flac": _Codec(
        muxer="flac",
        codec="flac",
        sample_format="s16",
        # By default the header has 8 KiB of padding for tags that nobody will write.
        muxer_options={"metadata_header_padding": "0"},
        codec_options={"compression_level": "2"},
    ),
    "wav": _Codec("wav", "pcm_s16le", "s16"),
    "pcm": _Codec("s16le", "pcm_s16le", "s16"),
    "ulaw": _Codec("mulaw", "pcm_mulaw", "s16"),
    "alaw": _Codec("alaw", "pcm_alaw", "s16"),
}


class Encoder:
    """Turns mono samples into the bytes of one file, piece by piece; each packet is flushed."""

    def __init__(
        self,
        audio_format: AudioFormat,
        sample_rate_hz: int,
        *,
        to_hz: int | None = None,
        whole_bytes: int = 0,
    ) -> None:
        """Encode samples of `sample_rate_hz` at the rate `to_hz`; None for the format's default.

        Of a wav up to `whole_bytes` are held back, so that its header can state the length. Longer
        audio is sent as it is made, without its length. InvalidRequestError if the format does not
        support `to_hz`.
        """
        to_hz = output_rate_hz(audio_format, to_hz)
        codec = _CODECS[audio_format]
        self._sample_format = codec.sample_format
        self.media_type = MEDIA_TYPES[audio_format]
        if audio_format == "pcm" and to_hz != OUTPUT_RATE_HZ:
            self.media_type += f";rate={to_hz}"
        self._resampler = Resampler(sample_rate_hz, to_hz)
        self._to_hz = to_hz
        self._sink = _Sink()
        self._room = whole_bytes if audio_format == "wav" else 0
        self._pts = 0
        self._container = av.open(
            self._sink,
            mode="w",
            format=codec.muxer,
            container_options={"flush_packets": "1", "fflags": "+bitexact", **codec.muxer_options},
        )
        # PyAV types the stream by the codec's literal name, which is data here.
        container: Any = self._container
        self._stream = container.add_stream(
            codec.codec, rate=to_hz, layout="mono", options=codec.codec_options
        )
        self._stream.format = self._sample_format
        if codec.bit_rate is not None:
            most = codec.most_bits * to_hz or codec.bit_rate
            self._stream.bit_rate = min(codec.bit_rate, most)

    def feed(self, samples: Samples) -> bytes:
        """Take float32 [N]; return the bytes that are ready."""
        self._encode(self._resampler.feed(samples))
        if len(self._sink) <= self._room:
            return b""
        self._room = 0
        return self._sink.take()

    def finish(self) -> bytes:
        """Return the last bytes; feed nothing afterwards."""
        self._encode(self._resampler.finish())
        if not self._pts:  # without a single sample there is nothing to close
            return b""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        if self._room:  # the lengths of the file, after "RIFF", and of its samples, after "data"
            struct.pack_into("<I", self._sink, 4, len(self._sink) - 8)
            struct.pack_into("<I", self._sink, 40, len(self._sink) - 44)
        return self._sink.take()

    def _encode(self, samples: Samples) -> None:
        if not samples.size:
            return
        data: Any = (
            to_int16(samples) if self._sample_format == "s16" else np.clip(samples, -1.0, 1.0)
        )
        frame = frame_of(data, self._to_hz, self._pts, self._sample_format)
        self._pts += samples.size
        self._container.mux(self._stream.encode(frame))


def to_wav(samples: Samples, sample_rate_hz: int) -> bytes:
    """Return float32 [N] as a mono WAV file of floats; `decode_as_is` restores the same samples."""
    file = io.BytesIO()
    with av.open(file, mode="w", format="wav") as container:
        stream = container.add_stream("pcm_f32le", sample_rate_hz, layout="mono")
        container.mux(stream.encode(frame_of(checked(samples), sample_rate_hz)))
        container.mux(stream.encode(None))
    return file.getvalue()
