from __future__ import annotations

import io
import wave

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.audio.decode import decode
from services.audio.encode import FORMATS, MEDIA_TYPES, OUTPUT_RATE_HZ, AudioFormat, open_encoder
from services.audio.pcm import Samples, to_bytes
from services.errors import EngineError, InvalidRequestError

# Samples that a decoder may give beyond what was fed: the table in encode.py.
PADDING = {"wav": 0, "pcm": 0, "flac": 0, "opus": 0, "aac": 2 * 1024, "mp3": 4 * 576}


def tone(count: int, rate_hz: int = OUTPUT_RATE_HZ, hz: float = 440.0) -> Samples:
    return (0.4 * np.sin(2 * np.pi * hz * np.arange(count) / rate_hz)).astype(np.float32)


def encoded(audio_format: AudioFormat, pieces: list[Samples], rate_hz: int) -> bytes:
    encoder = open_encoder(audio_format, rate_hz)
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
    encoder = open_encoder(audio_format, 22_050)
    fed = out = 0
    while not out:
        out = len(encoder.feed(tone(1102, 22_050)))
        fed += 1102
        assert fed < 22_050 // 4, "a quarter of a second in and nothing has come out"


@pytest.mark.parametrize("audio_format", FORMATS)
def test_bytes_keep_pace_with_the_samples(audio_format: AudioFormat) -> None:
    encoder = open_encoder(audio_format, OUTPUT_RATE_HZ)
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
        open_encoder(audio_format, OUTPUT_RATE_HZ).feed(samples)


@pytest.mark.parametrize("audio_format", FORMATS)
def test_the_tone_that_went_in_is_the_tone_that_comes_out(audio_format: AudioFormat) -> None:
    heard = decoded(audio_format, encoded(audio_format, [tone(22_050, 22_050)], 22_050))
    spectrum = np.abs(np.fft.rfft(heard))
    peak_hz = np.fft.rfftfreq(len(heard), 1 / OUTPUT_RATE_HZ)[spectrum.argmax()]
    assert abs(peak_hz - 440) < 3
    assert 0.35 < np.abs(heard).max() < 0.55


@pytest.mark.parametrize("audio_format", FORMATS)
def test_nothing_fed_is_no_crash(audio_format: AudioFormat) -> None:
    encoder = open_encoder(audio_format, OUTPUT_RATE_HZ)
    encoder.feed(np.zeros(0, dtype=np.float32))
    encoder.finish()


def test_wav_reads_with_the_standard_library_and_is_16_bit_mono_24_khz() -> None:
    data = encoded("wav", [tone(2400)], OUTPUT_RATE_HZ)
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24_000)
        assert file.readframes(1 << 20) == to_bytes(tone(2400))


def test_every_format_has_a_media_type_and_no_other_format_opens() -> None:
    assert set(MEDIA_TYPES) == set(FORMATS)
    with pytest.raises(InvalidRequestError) as caught:
        open_encoder("ogg", OUTPUT_RATE_HZ)  # type: ignore[arg-type]
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    ("audio_format", "magic"),
    [("opus", b"OggS"), ("flac", b"fLaC"), ("wav", b"RIFF"), ("mp3", b"\xff"), ("aac", b"\xff")],
)
def test_each_file_begins_with_its_own_magic(audio_format: AudioFormat, magic: bytes) -> None:
    assert encoded(audio_format, [tone(4800)], OUTPUT_RATE_HZ).startswith(magic)
