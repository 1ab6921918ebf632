from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from services.audio import pcm
from services.audio.decode import decode
from services.audio.encode import open_encoder
from services.audio.resample import Resampler
from services.errors import EngineError, InvalidRequestError, TooLargeError

RATES = [8_000, 16_000, 22_050, 24_000, 44_100, 48_000]


@given(hnp.arrays(np.int16, st.integers(0, 200)))
def test_int16_survives_the_way_through_float32(samples: np.ndarray) -> None:
    assert np.array_equal(pcm.to_int16(pcm.to_float32(samples)), samples)


def test_what_is_too_loud_is_clipped_not_wrapped() -> None:
    loud = np.array([1.0, 2.0, -1.0, -3.0], dtype=np.float32)
    assert pcm.to_int16(loud).tolist() == [32767, 32767, -32768, -32768]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(bad: float) -> None:
    with pytest.raises(EngineError) as caught:
        pcm.to_int16(np.array([0.0, bad], dtype=np.float32))
    assert caught.value.code == "audio_not_finite"


def test_infinities_of_both_signs_do_not_cancel() -> None:
    with pytest.raises(EngineError):
        pcm.checked(np.array([np.inf, -np.inf], dtype=np.float32))


def test_stereo_is_refused() -> None:
    with pytest.raises(EngineError) as caught:
        pcm.checked(np.zeros((2, 4), dtype=np.float32))
    assert caught.value.code == "audio_not_mono"


def test_duration_is_samples_over_rate() -> None:
    assert pcm.duration_s(12_000, 24_000) == 0.5


@settings(max_examples=60, deadline=None)
@given(
    from_hz=st.sampled_from(RATES),
    to_hz=st.sampled_from(RATES),
    count=st.integers(1, 9_000),
    cuts=st.lists(st.integers(0, 9_000), max_size=8),
    seed=st.integers(0, 9),
)
def test_chunking_never_changes_samples_and_duration_survives(
    from_hz: int, to_hz: int, count: int, cuts: list[int], seed: int
) -> None:
    samples = np.random.default_rng(seed).uniform(-1, 1, count).astype(np.float32)

    def resampled(pieces: list[np.ndarray]) -> np.ndarray:
        resampler = Resampler(from_hz, to_hz)
        return np.concatenate([*(resampler.feed(piece) for piece in pieces), resampler.finish()])

    whole = resampled([samples])
    assert np.array_equal(whole, resampled(np.split(samples, sorted(c for c in cuts if c < count))))
    assert abs(len(whole) - count * to_hz / from_hz) <= 1


def test_a_rate_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        Resampler(0, 24_000)


def flac(seconds: float) -> bytes:
    encoder = open_encoder("flac", 24_000)
    return encoder.feed(np.zeros(int(seconds * 24_000), dtype=np.float32)) + encoder.finish()


def test_a_file_decodes_at_the_rate_asked_for() -> None:
    assert abs(len(decode(flac(1.0), sample_rate_hz=16_000)) - 16_000) <= 1


@pytest.mark.parametrize("data", [b"", b"not audio at all", flac(1.0)[:30], b"\0" * 4096])
def test_what_is_not_audio_is_a_clear_refusal(data: bytes) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode(data, sample_rate_hz=16_000, param="ref_audio")
    assert (caught.value.param, caught.value.code) == ("ref_audio", "invalid_audio")


@settings(max_examples=60, deadline=None)
@given(noise=st.binary(max_size=300), at=st.integers(0, 400))
def test_damaged_files_never_do_worse_than_a_refusal(noise: bytes, at: int) -> None:
    good = flac(0.5)
    with contextlib.suppress(InvalidRequestError):
        decode(good[:at] + noise + good[at + len(noise) :], sample_rate_hz=16_000)


def test_too_many_bytes_are_refused_before_they_are_parsed() -> None:
    with pytest.raises(TooLargeError) as caught:
        decode(b"x" * 101, sample_rate_hz=16_000, max_bytes=100)
    assert caught.value.code == "audio_too_large"


def test_a_small_file_of_long_silence_is_refused() -> None:
    with pytest.raises(TooLargeError) as caught:
        decode(flac(30.0), sample_rate_hz=16_000, max_seconds=5)
    assert caught.value.code == "audio_too_long"
