from __future__ import annotations

import contextlib
import io
import struct
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from services.audio import pcm
from services.audio.decode import Decoding, decode_as_is, excerpt
from services.audio.encode import Encoder, to_wav
from services.audio.resample import Resampler
from services.errors import EngineError, InvalidRequestError, TooLargeError
from tests.decoding import decode

if TYPE_CHECKING:
    from pathlib import Path

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
    to_hz=st.sampled_from([*RATES, 500]),
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


def flac(seconds: float) -> bytes:
    encoder = Encoder("flac", 24_000)
    return encoder.feed(np.zeros(int(seconds * 24_000), dtype=np.float32)) + encoder.finish()


def test_a_file_decodes_at_the_rate_asked_for() -> None:
    assert abs(len(decode(flac(1.0), sample_rate_hz=16_000)) - 16_000) <= 1


@pytest.mark.parametrize("data", [b"", b"not audio at all", flac(1.0)[:30], b"\0" * 4096])
def test_what_is_not_audio_is_a_clear_refusal(data: bytes) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode_as_is(data, param="ref_audio")
    assert (caught.value.param, caught.value.code) == ("ref_audio", "invalid_audio")


@settings(max_examples=60, deadline=None)
@given(noise=st.binary(max_size=300), at=st.integers(0, 400))
def test_damaged_files_never_do_worse_than_a_refusal(noise: bytes, at: int) -> None:
    good = flac(0.5)
    with contextlib.suppress(InvalidRequestError):
        decode(good[:at] + noise + good[at + len(noise) :], sample_rate_hz=16_000)


def test_a_small_file_of_long_silence_is_refused() -> None:
    with pytest.raises(TooLargeError) as caught:
        decode_as_is(flac(30.0), max_seconds=5)
    assert caught.value.code == "audio_too_long"


def wav_at(rate_hz: int, samples: int) -> bytes:
    body = np.zeros(samples, "<i2").tobytes()
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate_hz, rate_hz * 2, 2, 16)
    size = 4 + len(fmt) + 8 + len(body)
    return (
        b"RIFF"
        + struct.pack("<I", size)
        + b"WAVE"
        + fmt
        + b"data"
        + struct.pack("<I", len(body))
        + body
    )


def test_hours_in_one_frame_are_refused_before_they_are_resampled() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode(wav_at(1, 2_000), sample_rate_hz=48_000)
    assert caught.value.code == "unsupported_sample_rate"


@pytest.mark.parametrize("rate_hz", [999, 768_001, 2_000_000_000])
def test_a_rate_that_no_recorder_has_is_refused(rate_hz: int) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode(wav_at(rate_hz, 1_000), sample_rate_hz=16_000)
    assert caught.value.code == "unsupported_sample_rate"


def pieces(data: bytes, max_seconds: float = 60.0) -> Decoding:
    return Decoding(data, sample_rate_hz=16_000, max_seconds=max_seconds)


@pytest.mark.parametrize("seconds", [0.01, 3.0])
def test_a_file_decoded_piece_by_piece_is_the_same_and_counts_itself(seconds: float) -> None:
    decoding = pieces(flac(seconds))
    assert decoding.seconds == 0
    samples = np.concatenate(list(decoding))
    assert np.array_equal(samples, decode(flac(seconds), sample_rate_hz=16_000))
    assert decoding.seconds == samples.size / 16_000


def test_a_file_that_breaks_off_gives_what_was_before_and_then_fails() -> None:
    whole = wav_at(16_000, 160_000)
    decoding = pieces(whole, max_seconds=5.0)
    heard: list[int] = []
    with pytest.raises(TooLargeError):
        heard.extend(piece.size for piece in decoding)
    assert 4 <= sum(heard) / 16_000 <= decoding.seconds <= 5


def test_hours_take_no_more_memory_than_seconds() -> None:
    data = wav_at(8_000, 8_000 * 60 * 4)
    largest = max(piece.nbytes for piece in pieces(data, max_seconds=3600))
    assert largest < 100_000


@pytest.mark.parametrize("data", [b"", b"RIFF", b"\x00" * 5000])
def test_nothing_to_hear_is_refused_piece_by_piece_too(data: bytes) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        list(pieces(data))
    assert caught.value.code == "invalid_audio"


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000])
def test_a_file_decodes_at_its_own_rate(rate_hz: int) -> None:
    decoded = decode_as_is(wav_at(rate_hz, rate_hz))
    assert (decoded.samples.size, decoded.sample_rate_hz) == (rate_hz, rate_hz)
    assert decoded.source_rate_hz == rate_hz


def test_a_rate_over_the_highest_is_brought_down_to_it() -> None:
    decoded = decode_as_is(wav_at(96_000, 96_000))
    assert (decoded.sample_rate_hz, decoded.source_rate_hz) == (48_000, 96_000)
    assert abs(decoded.samples.size - 48_000) <= 1


@settings(max_examples=40, deadline=None)
@given(
    samples=hnp.arrays(np.float32, st.integers(1, 5_000), elements=st.floats(-1, 1, width=32)),
    rate_hz=st.sampled_from(RATES),
)
def test_a_wav_gives_back_the_same_samples_bit_for_bit(samples: np.ndarray, rate_hz: int) -> None:
    decoded = decode_as_is(to_wav(samples, rate_hz))
    assert np.array_equal(decoded.samples, samples)
    assert decoded.sample_rate_hz == rate_hz


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_file_of_samples_that_are_no_numbers_is_refused(bad: float) -> None:
    marker = np.float32(0.123)
    good = to_wav(np.full(1_000, marker), 16_000)
    with pytest.raises(InvalidRequestError) as caught:
        decode(good.replace(marker.tobytes(), np.float32(bad).tobytes(), 5), sample_rate_hz=16_000)
    assert caught.value.code == "invalid_audio"


def test_a_list_of_other_files_opens_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.wav").write_bytes(wav_at(16_000, 16_000))
    monkeypatch.chdir(tmp_path)
    playlist = b"ffconcat version 1.0\nfile secret.wav\n"
    with av.open(io.BytesIO(playlist)) as unguarded:  # what FFmpeg does when it is let
        assert next(unguarded.decode(audio=0)).samples
    with pytest.raises(InvalidRequestError) as caught:
        decode(playlist, sample_rate_hz=16_000)
    assert caught.value.code == "invalid_audio"


def test_a_session_description_opens_no_socket() -> None:
    sdp = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"
    with pytest.raises(InvalidRequestError):  # unguarded it waits for packets for ever
        decode(sdp, sample_rate_hz=16_000)


def tone(seconds: float, rate_hz: int) -> np.ndarray:
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * 220 * time_s)).astype(np.float32)


@given(start_s=st.floats(0, 2.9), length_s=st.floats(0.01, 4), rate_hz=st.sampled_from(RATES))
@settings(max_examples=40, deadline=None)
def test_an_excerpt_is_the_part_of_the_whole(start_s: float, length_s: float, rate_hz: int) -> None:
    samples = tone(3.0, rate_hz)
    part = excerpt(to_wav(samples, rate_hz), start_s, start_s + length_s)
    begin, end = int(start_s * rate_hz), int((start_s + length_s) * rate_hz)
    assert part.sample_rate_hz == part.source_rate_hz == rate_hz
    assert np.array_equal(part.samples, samples[begin:end])


def test_an_excerpt_of_a_high_rate_is_brought_down() -> None:
    part = excerpt(to_wav(tone(2.0, 48_000), 48_000), 0.5, 1.5, max_rate_hz=24_000)
    assert (part.sample_rate_hz, part.source_rate_hz) == (24_000, 48_000)
    assert part.samples.size == 24_000


def test_what_stands_behind_an_excerpt_is_not_looked_at() -> None:
    data = to_wav(tone(20.0, 16_000), 16_000)
    broken = data[: len(data) // 2] + b"\xff" * 1000
    assert excerpt(broken, 1.0, 2.0).samples.size == 16_000


def test_an_excerpt_of_nothing_is_refused() -> None:
    for data, start_s in [(to_wav(tone(1.0, 16_000), 16_000), 2.0), (b"no audio", 0.0)]:
        with pytest.raises(InvalidRequestError) as caught:
            excerpt(data, start_s, start_s + 1)
        assert caught.value.code == "invalid_audio"
