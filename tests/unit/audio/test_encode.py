from __future__ import annotations

import io
import struct
import wave
from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.audio.decode import decode_as_is
from services.audio.encode import OUTPUT_RATE_HZ, Encoder
from services.audio.formats import MEDIA_TYPES, AudioFormat, SampleRate
from services.errors import EngineError, InvalidRequestError
from tests.decoding import decode
from tests.sounds import FORMATS, to_bytes

if TYPE_CHECKING:
    from services.audio.pcm import Samples

# Samples that a decoder may give beyond what was fed: the table in encode.py.
PADDING = {"wav": 0, "pcm": 0, "flac": 0, "opus": 0, "aac": 2 * 1024, "mp3": 4 * 576}


def tone(count: int, rate_hz: int = OUTPUT_RATE_HZ, hz: float = 440.0) -> Samples:
    return (0.4 * np.sin(2 * np.pi * hz * np.arange(count) / rate_hz)).astype(np.float32)


def encoded(audio_format: AudioFormat, pieces: list[Samples], rate_hz: int) -> bytes:
    encoder = Encoder(audio_format, rate_hz)
    return b"".join(encoder.feed(piece) for piece in pieces) + encoder.finish()


def decoded(audio_format: AudioFormat, data: bytes) -> Samples:
    if audio_format == "pcm":
        return np.frombuffer(data, dtype="<i2").astype(np.float32) / 32768
    return decode(data, sample_rate_hz=OUTPUT_RATE_HZ)


@pytest.mark.parametrize("audio_format", FORMATS)
@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(6_000, 30_000),
    cuts=st.lists(st.integers(0, 30_000), max_size=6),
    rate_hz=st.sampled_from([16_000, 22_050, 24_000, 48_000]),
)
def test_chunking_never_changes_bytes_and_duration_survives(
    audio_format: AudioFormat, count: int, cuts: list[int], rate_hz: int
) -> None:
    samples = tone(count, rate_hz)
    whole = encoded(audio_format, [samples], rate_hz)
    pieces = np.split(samples, sorted(cut for cut in cuts if cut < count))
    assert encoded(audio_format, pieces, rate_hz) == whole
    extra = len(decoded(audio_format, whole)) - count * OUTPUT_RATE_HZ / rate_hz
    assert -1 <= extra <= PADDING[audio_format] + 1


@pytest.mark.parametrize("audio_format", FORMATS)
def test_first_bytes_leave_before_the_last_sample_is_fed(audio_format: AudioFormat) -> None:
    encoder = Encoder(audio_format, 22_050)
    fed = out = 0
    while not out:
        out = len(encoder.feed(tone(1102, 22_050)))
        fed += 1102
        assert fed < 22_050 // 4, "a quarter of a second in and nothing has come out"


@pytest.mark.parametrize("audio_format", FORMATS)
def test_bytes_keep_pace_with_the_samples(audio_format: AudioFormat) -> None:
    encoder = Encoder(audio_format, OUTPUT_RATE_HZ)
    behind_s = worst_s = 0.0
    for _ in range(60):
        behind_s = 0.0 if encoder.feed(tone(1200)) else behind_s + 0.05
        worst_s = max(worst_s, behind_s)
    assert worst_s <= 0.11


@pytest.mark.parametrize("audio_format", FORMATS)
@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, 7.0])
def test_silence_full_scale_and_beyond_are_encoded(audio_format: AudioFormat, level: float) -> None:
    samples = np.full(12_000, level, dtype=np.float32)
    heard = decoded(audio_format, encoded(audio_format, [samples], OUTPUT_RATE_HZ))
    assert np.isfinite(heard).all()
    if level == 0.0:
        assert np.abs(heard).max() < 1e-3


@pytest.mark.parametrize("audio_format", FORMATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(audio_format: AudioFormat, bad: float) -> None:
    samples = tone(100)
    samples[50] = bad
    with pytest.raises(EngineError, match="not finite"):
        Encoder(audio_format, OUTPUT_RATE_HZ).feed(samples)


@pytest.mark.parametrize("audio_format", FORMATS)
def test_the_tone_that_went_in_is_the_tone_that_comes_out(audio_format: AudioFormat) -> None:
    heard = decoded(audio_format, encoded(audio_format, [tone(22_050, 22_050)], 22_050))
    spectrum = np.abs(np.fft.rfft(heard))
    peak_hz = np.fft.rfftfreq(len(heard), 1 / OUTPUT_RATE_HZ)[spectrum.argmax()]
    assert abs(peak_hz - 440) < 3
    assert 0.35 < np.abs(heard).max() < 0.55


@pytest.mark.parametrize("audio_format", FORMATS)
def test_nothing_fed_is_no_crash(audio_format: AudioFormat) -> None:
    encoder = Encoder(audio_format, OUTPUT_RATE_HZ)
    encoder.feed(np.zeros(0, dtype=np.float32))
    encoder.finish()


def test_wav_reads_with_the_standard_library_and_is_16_bit_mono_24_khz() -> None:
    data = encoded("wav", [tone(2400)], OUTPUT_RATE_HZ)
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24_000)
        assert file.readframes(1 << 20) == to_bytes(tone(2400))


def test_a_wav_that_may_be_held_back_says_how_long_it_is() -> None:
    encoder = Encoder("wav", OUTPUT_RATE_HZ, whole_bytes=1 << 20)
    assert encoder.feed(tone(1200)) + encoder.feed(tone(1200)) == b""
    data = encoder.finish()
    assert struct.unpack("<I", data[4:8]) == (len(data) - 8,)
    assert struct.unpack("<I", data[40:44]) == (len(data) - 44,)
    with wave.open(io.BytesIO(data)) as file:
        assert file.getnframes() == 2400


def test_a_wav_too_large_to_be_held_back_comes_as_it_is_made() -> None:
    encoder = Encoder("wav", OUTPUT_RATE_HZ, whole_bytes=3000)
    assert encoder.feed(tone(1200)) == b""
    data = encoder.feed(tone(1200)) + encoder.finish()
    assert data == encoded("wav", [tone(1200), tone(1200)], OUTPUT_RATE_HZ)


@pytest.mark.parametrize("rate_hz", get_args(SampleRate))
@pytest.mark.parametrize("audio_format", FORMATS)
def test_a_format_has_the_rate_asked_for_or_says_which_it_has(
    audio_format: AudioFormat, rate_hz: int
) -> None:
    if audio_format == "opus" and rate_hz in (22_050, 44_100):
        with pytest.raises(InvalidRequestError, match="8000, 16000, 24000, 48000") as caught:
            Encoder(audio_format, 22_050, to_hz=rate_hz)
        assert caught.value.param == "sample_rate"
        return
    encoder = Encoder(audio_format, 22_050, to_hz=rate_hz)
    data = encoder.feed(tone(22_050, 22_050)) + encoder.finish()
    if audio_format == "pcm":
        assert abs(len(data) // 2 - rate_hz) <= 1
        return
    sound = decode_as_is(data)
    assert sound.source_rate_hz == (48_000 if audio_format == "opus" else rate_hz)
    extra_s = sound.samples.size / sound.sample_rate_hz - 1
    assert -0.001 <= extra_s <= PADDING[audio_format] / rate_hz + 0.001
    spectrum = np.abs(np.fft.rfft(sound.samples))
    peak_hz = np.fft.rfftfreq(sound.samples.size, 1 / sound.sample_rate_hz)[spectrum.argmax()]
    assert abs(peak_hz - 440) < 3


@pytest.mark.parametrize("audio_format", ["ulaw", "alaw"])
def test_g711_is_one_byte_a_sample_at_8_khz(audio_format: AudioFormat) -> None:
    data = encoded(audio_format, [tone(24_000)], OUTPUT_RATE_HZ)
    assert abs(len(data) - 8000) <= 1
    heard = g711(audio_format, data)
    spectrum = np.abs(np.fft.rfft(heard))
    assert abs(np.fft.rfftfreq(heard.size, 1 / 8000)[spectrum.argmax()] - 440) < 2
    assert 0.37 < np.abs(heard).max() < 0.43
    with pytest.raises(InvalidRequestError, match="8000"):
        Encoder(audio_format, OUTPUT_RATE_HZ, to_hz=16_000)


def g711(audio_format: AudioFormat, data: bytes) -> Samples:
    """Expand by the formulas of ITU-T G.711."""
    bits = np.frombuffer(data, np.uint8) ^ (0xFF if audio_format == "ulaw" else 0x55)
    exponent, step = (bits >> 4 & 7).astype(np.int32), (bits & 15).astype(np.int32)
    if audio_format == "ulaw":
        size = ((step * 8 + 132) << exponent) - 132
        sign = np.where(bits & 0x80, -1, 1)
    else:
        size = np.where(exponent, (step * 16 + 264) << np.maximum(exponent - 1, 0), step * 16 + 8)
        sign = np.where(bits & 0x80, 1, -1)
    return (sign * size / 32768).astype(np.float32)


def test_every_format_has_a_media_type() -> None:
    assert set(MEDIA_TYPES) == set(get_args(AudioFormat))


@pytest.mark.parametrize(
    ("audio_format", "magic"),
    [("opus", b"OggS"), ("flac", b"fLaC"), ("wav", b"RIFF"), ("mp3", b"\xff"), ("aac", b"\xff")],
)
def test_each_file_begins_with_its_own_magic(audio_format: AudioFormat, magic: bytes) -> None:
    assert encoded(audio_format, [tone(4800)], OUTPUT_RATE_HZ).startswith(magic)
