from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.audio import pcm
from services.audio.decode import LiveDecoder
from services.audio.formats import LIVE_RATE_HZ

if TYPE_CHECKING:
    from services.audio.formats import LiveFormat

FORMATS = list(LIVE_RATE_HZ)


def decoded(live_format: LiveFormat, *pieces: bytes, rate_hz: int = 16_000) -> pcm.Samples:
    decoder = LiveDecoder(live_format, rate_hz)
    return np.concatenate([*(decoder.feed(piece) for piece in pieces), decoder.finish()])


@settings(max_examples=60, deadline=None)
@given(
    live_format=st.sampled_from(FORMATS),
    data=st.binary(max_size=4000),
    cuts=st.lists(st.integers(0, 4000), max_size=8),
)
def test_samples_do_not_depend_on_how_the_bytes_were_cut(
    live_format: LiveFormat, data: bytes, cuts: list[int]
) -> None:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]
    whole = decoded(live_format, data)
    assert np.array_equal(whole, decoded(live_format, *pieces))
    count = len(data) // (2 if live_format == "audio/pcm" else 1)
    assert abs(whole.size - count * 16_000 / LIVE_RATE_HZ[live_format]) <= 1


def test_pcm_is_little_endian_and_keeps_its_values() -> None:
    data = np.array([0, 1, -1, 32767, -32768], dtype="<i2").tobytes()
    assert (decoded("audio/pcm", data, rate_hz=24_000) * 32768).tolist() == [
        0, 1, -1, 32767, -32768,
    ]  # fmt: skip


# ITU-T G.711, tables 1a to 2b: the ends and the middle of both laws, in 16 bits.
@pytest.mark.parametrize(
    ("live_format", "values"),
    [
        ("audio/pcmu", {0x00: -32124, 0x80: 32124, 0x7F: 0, 0xFF: 0, 0xEF: 132, 0x8F: 16764}),
        ("audio/pcma", {0x2A: -32256, 0xAA: 32256, 0x55: -8, 0xD5: 8, 0xC5: 264}),
    ],
)
def test_g711_has_the_values_of_its_table(live_format: LiveFormat, values: dict[int, int]) -> None:
    samples = decoded(live_format, bytes(values), rate_hz=8_000)
    assert (samples * 32768).tolist() == list(values.values())


@pytest.mark.parametrize(
    ("live_format", "codec"), [("audio/pcmu", "pcm_mulaw"), ("audio/pcma", "pcm_alaw")]
)
def test_g711_from_ffmpegs_encoder_sounds_as_it_did(live_format: LiveFormat, codec: str) -> None:
    time_s = np.arange(8_000) / 8_000
    tone = (0.5 * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)
    encoder = av.CodecContext.create(codec, "w")
    encoder.sample_rate, encoder.layout, encoder.format = 8_000, "mono", "s16"
    frame = av.AudioFrame.from_ndarray(pcm.to_int16(tone)[np.newaxis], format="s16", layout="mono")
    frame.sample_rate = 8_000
    data = b"".join(bytes(packet) for packet in encoder.encode(frame))
    assert np.abs(decoded(live_format, data, rate_hz=8_000) - tone).max() < 0.02


def test_after_the_end_another_stream_begins() -> None:
    decoder = LiveDecoder("audio/pcm", 16_000)
    data = np.arange(2400, dtype="<i2").tobytes()
    first = np.concatenate([decoder.feed(data + b"\x01"), decoder.finish()])
    second = np.concatenate([decoder.feed(data), decoder.finish()])
    assert np.array_equal(first, second)
