from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.audio.resample import TimeStretch
from services.errors import EngineError

RATE_HZ = 24_000
SPEEDS = [0.25, 0.4, 0.5, 0.8, 0.9, 1.1, 1.5, 2.0, 2.5, 4.0]


def stretched(pieces: list[np.ndarray], speed: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    stretch = TimeStretch(rate_hz, speed)
    return np.concatenate([*(stretch.feed(piece) for piece in pieces), stretch.finish()])


def tone(frequency_hz: float, seconds: float) -> np.ndarray:
    time = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    return (0.5 * np.sin(2 * np.pi * frequency_hz * time)).astype(np.float32)


def loudness(samples: np.ndarray) -> np.ndarray:
    """Return the mean magnitude of each 10 ms."""
    step = RATE_HZ // 100
    return np.abs(samples[: samples.size // step * step]).reshape(-1, step).mean(axis=1)


@settings(max_examples=60, deadline=None)
@given(
    speed=st.sampled_from(SPEEDS),
    rate_hz=st.sampled_from([16_000, 22_050, 24_000]),
    count=st.integers(0, 12_000),
    cuts=st.lists(st.integers(0, 12_000), max_size=8),
    seed=st.integers(0, 9),
)
def test_chunking_never_changes_samples_and_the_duration_is_exact(
    speed: float, rate_hz: int, count: int, cuts: list[int], seed: int
) -> None:
    samples = np.random.default_rng(seed).uniform(-1, 1, count).astype(np.float32)
    whole = stretched([samples], speed, rate_hz)
    pieces = np.split(samples, sorted(min(cut, count) for cut in cuts))
    assert np.array_equal(whole, stretched(pieces, speed, rate_hz))
    assert whole.size == round(count / speed)
    assert whole.dtype == np.float32


def test_one_sample_at_a_time_is_the_same_as_all_at_once() -> None:
    samples = tone(220, 0.2)
    assert np.array_equal(stretched([samples], 1.5), stretched(list(samples[:, np.newaxis]), 1.5))


def test_speed_one_passes_the_very_same_samples() -> None:
    stretch = TimeStretch(RATE_HZ, 1.0)
    samples = tone(220, 0.1)
    assert stretch.feed(samples) is samples
    assert not stretch.finish().size


@pytest.mark.parametrize("frequency_hz", [110, 220, 1000])
@pytest.mark.parametrize("speed", SPEEDS)
def test_the_pitch_stays(speed: float, frequency_hz: int) -> None:
    heard = stretched([tone(frequency_hz, 2.0)], speed)
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(heard.size)))
    assert np.argmax(spectrum) * RATE_HZ / heard.size == pytest.approx(frequency_hz, rel=0.03)


@pytest.mark.parametrize("speed", SPEEDS)
def test_what_is_said_stays_in_its_place(speed: float) -> None:
    samples = np.concatenate([np.zeros(RATE_HZ, np.float32), tone(220, 1.0), np.zeros(RATE_HZ)])
    loud = np.flatnonzero(loudness(stretched([samples.astype(np.float32)], speed)) > 0.15) / 100
    assert loud[0] * speed == pytest.approx(1.0, abs=0.09)
    assert loud[-1] * speed == pytest.approx(2.0, abs=0.09)


@pytest.mark.parametrize("speed", SPEEDS)
def test_nothing_clicks_from_start_to_end(speed: float) -> None:
    samples = tone(220, 1.0)
    heard = np.concatenate([[0.0], stretched([samples], speed), [0.0]])
    steepest = np.abs(np.diff(samples)).max()
    assert np.abs(np.diff(heard)).max() <= 2 * steepest
    assert np.abs(heard).max() <= 1.05 * np.abs(samples).max()


@pytest.mark.parametrize(
    ("speed", "latency_ms"), [(0.25, 90), (0.5, 70), (0.8, 70), (1.2, 70), (2.0, 70), (4.0, 210)]
)
def test_the_first_output_comes_soon(speed: float, latency_ms: int) -> None:
    stretch = TimeStretch(RATE_HZ, speed)
    samples = tone(220, 1.0)
    step = RATE_HZ // 1000
    outputs = (stretch.feed(samples[begin : begin + step]) for begin in range(0, RATE_HZ, step))
    waited_ms = next(i for i, output in enumerate(outputs, start=1) if output.size)
    assert waited_ms <= latency_ms


@pytest.mark.parametrize("speed", [1.0, 1.5])
def test_nothing_in_is_nothing_out(speed: float) -> None:
    assert not stretched([np.zeros(0, np.float32)] * 3, speed).size


def test_samples_that_are_not_finite_are_refused() -> None:
    with pytest.raises(EngineError):
        TimeStretch(RATE_HZ, 2.0).feed(np.array([np.nan], dtype=np.float32))
