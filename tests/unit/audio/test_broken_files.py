"""One bad byte loses one frame, never the recording."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.audio.decode import Decoding, decode_as_is, excerpt
from services.audio.encode import Encoder, to_wav
from services.errors import InvalidRequestError
from tests.decoding import decode

if TYPE_CHECKING:
    from pathlib import Path

RATE_HZ = 16_000


def sound(seconds: float, rate_hz: int, hz: float = 440.0) -> Any:
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * hz * time_s)).astype(np.float32)


def encoded(audio_format: Any, seconds: float, rate_hz: int = 24_000, hz: float = 440.0) -> bytes:
    encoder = Encoder(audio_format, rate_hz)
    return encoder.feed(sound(seconds, rate_hz, hz)) + encoder.finish()


def contained(folder: Path, kind: str, codec: str, seconds: float, layout: str = "mono") -> bytes:
    """Return a file as another program writes it: with its length, and its table in front."""
    path = folder / f"file.{kind}"
    options = {"movflags": "faststart"} if kind in {"mp4", "mov"} else {}
    rate_hz = 48_000
    samples = np.round(sound(seconds, rate_hz) * 32767).astype("<i2")
    if layout == "stereo":
        samples = np.repeat(samples, 2)
    frame = av.AudioFrame.from_ndarray(samples[np.newaxis], "s16", layout)
    frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream(codec, rate=rate_hz, layout=layout)
        for one in (frame, None):
            for packet in stream.encode(one):  # type: ignore[attr-defined]
                file.mux(packet)
    return path.read_bytes()


def heard(data: bytes) -> tuple[float, float]:
    """Return how much was decoded, and how much is told to be lost."""
    decoding = Decoding(data, sample_rate_hz=RATE_HZ, max_seconds=60)
    assert sum(piece.size for piece in decoding) == round(decoding.seconds * RATE_HZ)
    return decoding.seconds, decoding.lost_s


def loudest_hz(samples: Any) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * RATE_HZ / samples.size)


def test_joined_mp3s_of_other_rates_are_heard_one_after_the_other() -> None:
    joined = encoded("mp3", 2.0, 24_000, 440) + encoded("mp3", 2.0, 16_000, 880)
    samples = decode(joined, sample_rate_hz=RATE_HZ)
    assert samples.size / RATE_HZ == pytest.approx(4.0, abs=0.2)
    assert loudest_hz(samples[:RATE_HZ]) == pytest.approx(440, abs=3)
    assert loudest_hz(samples[-RATE_HZ:]) == pytest.approx(880, abs=3)


def test_mono_joined_to_stereo_is_heard(tmp_path: Path) -> None:
    mono = contained(tmp_path, "mp3", "libmp3lame", 2.0)
    stereo = contained(tmp_path, "mp3", "libmp3lame", 2.0, "stereo")
    assert heard(mono + stereo)[0] == pytest.approx(4.0, abs=0.2)
    assert heard(stereo + mono)[0] == pytest.approx(4.0, abs=0.2)


def test_a_file_that_begins_at_one_rate_is_decoded_at_that() -> None:
    decoded = decode_as_is(encoded("mp3", 1.0, 24_000) + encoded("mp3", 1.0, 44_100))
    assert decoded.sample_rate_hz == decoded.source_rate_hz == 24_000
    assert decoded.samples.size / 24_000 == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("audio_format", ["mp3", "aac", "opus", "flac"])
def test_broken_bytes_in_the_middle_cost_what_they_hit(audio_format: Any) -> None:
    whole = encoded(audio_format, 10.0)
    broken = bytearray(whole)
    middle, length = len(whole) // 2, len(whole) // 50
    broken[middle : middle + length] = np.random.default_rng(0).bytes(length)
    seconds, lost_s = heard(bytes(broken))
    assert seconds > 7
    assert lost_s < 3


def test_what_does_not_decode_is_counted() -> None:
    whole = encoded("aac", 10.0)
    broken = bytearray(whole)
    for at in range(len(whole) // 4, len(whole) // 2, 40):
        broken[at] ^= 0xFF
    _, lost_s = heard(bytes(broken))
    assert lost_s > 0


def test_junk_between_two_recordings_is_passed_over() -> None:
    junk = np.random.default_rng(1).bytes(20_000)
    assert heard(encoded("mp3", 3.0) + junk + encoded("mp3", 3.0))[0] > 5.5


@pytest.mark.parametrize("audio_format", ["mp3", "aac", "opus", "flac", "wav"])
def test_a_stream_that_was_cut_is_heard_up_to_there(audio_format: Any) -> None:
    whole = encoded(audio_format, 6.0)
    seconds, _ = heard(whole[: len(whole) // 2])
    assert 2 < seconds < 4


@pytest.mark.parametrize(
    ("kind", "codec"),
    [("mp4", "aac"), ("mkv", "flac"), ("flac", "flac"), ("aiff", "pcm_s16be")],
)
def test_a_cut_file_that_says_how_long_it_is_tells_what_is_missing(
    tmp_path: Path, kind: str, codec: str
) -> None:
    whole = contained(tmp_path, kind, codec, 9.0)
    assert heard(whole) == (pytest.approx(9.0, abs=0.1), 0)
    seconds, lost_s = heard(whole[: len(whole) * 2 // 3])
    assert 5 < seconds < 7
    assert seconds + lost_s == pytest.approx(9.0, abs=0.2)


@pytest.mark.parametrize("kind", ["wav", "ogg"])
def test_a_cut_file_is_heard_up_to_there(tmp_path: Path, kind: str) -> None:
    whole = contained(tmp_path, kind, {"wav": "pcm_s16le", "ogg": "libopus"}[kind], 9.0)
    assert 5 < heard(whole[: len(whole) * 2 // 3])[0] < 7


def test_a_wav_of_unknown_length_lacks_nothing() -> None:
    assert heard(encoded("wav", 3.0)) == (pytest.approx(3.0, abs=0.01), 0)


def spoilt(begin_s: float, end_s: float, value: float) -> bytes:
    """Return a wav of three seconds with samples that are no numbers."""
    whole = to_wav(sound(3.0, RATE_HZ), RATE_HZ)
    samples = np.frombuffer(whole[-3 * RATE_HZ * 4 :], dtype="<f4").copy()
    samples[round(begin_s * RATE_HZ) : round(end_s * RATE_HZ)] = value
    return whole[: -3 * RATE_HZ * 4] + samples.tobytes()


def test_samples_that_are_no_numbers_are_left_out() -> None:
    decoded = decode(spoilt(1.0, 1.001, np.nan), sample_rate_hz=RATE_HZ)
    assert np.isfinite(decoded).all()
    assert 2.5 < decoded.size / RATE_HZ < 3


def test_what_is_more_broken_than_whole_is_no_voice() -> None:
    with pytest.raises(InvalidRequestError, match="cannot be decoded") as caught:
        decode_as_is(spoilt(1.0, 3.0, np.inf), param="audio_sample")
    assert (caught.value.param, caught.value.code) == ("audio_sample", "invalid_audio")


def test_an_excerpt_is_found_behind_what_is_broken() -> None:
    whole = bytearray(encoded("mp3", 10.0))
    whole[1000:1400] = bytes(400)
    assert excerpt(bytes(whole), 5.0, 6.0).samples.size == 24_000


def test_a_file_is_decoded_without_a_copy_of_it() -> None:
    whole = to_wav(sound(300.0, RATE_HZ), RATE_HZ)
    decoding = Decoding(whole, sample_rate_hz=RATE_HZ, max_seconds=999)
    tracemalloc.start()
    try:
        assert sum(piece.size for piece in decoding)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(whole) / 10


def test_a_file_is_let_go_when_it_is_read() -> None:
    decoding = Decoding(encoded("mp3", 1.0), sample_rate_hz=RATE_HZ, max_seconds=9)
    assert sum(piece.size for piece in decoding)
    assert not decoding._data


@settings(max_examples=40, deadline=None)
@given(
    noise=st.binary(min_size=1, max_size=300),
    at=st.floats(0, 1),
    audio_format=st.sampled_from(["mp3", "aac", "opus", "flac"]),
)
def test_a_little_noise_never_costs_a_recording(noise: bytes, at: float, audio_format: str) -> None:
    good = encoded(audio_format, 8.0)
    place = 2000 + int(at * (len(good) - 3000))  # what a file begins with is its head
    broken = good[:place] + noise + good[place + len(noise) :]
    assert heard(broken)[0] > 4


def test_bytes_that_are_no_sound_stay_refused() -> None:
    for data in (b"\x89PNG\r\n\x1a\n" + bytes(5000), b"%PDF-1.7" * 900):
        with pytest.raises(InvalidRequestError) as caught:
            heard(data)
        assert caught.value.code == "invalid_audio"
