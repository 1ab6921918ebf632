"""Cutting loses nothing, repeats nothing, and does not depend on the caller's chunk sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from services.transcription.engines.protocol import (
    SAMPLE_RATE_HZ,
    VAD_FRAME_SAMPLES,
    WINDOW_S,
    Cutting,
)
from services.transcription.engines.windows import Timeline, windows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from services.audio.pcm import Samples

MOST = int(WINDOW_S * SAMPLE_RATE_HZ)


class Loud:
    """Frames that begin with a positive sample are speech; each sample's value is its position."""

    def __init__(self) -> None:
        self.rest = np.zeros(0, dtype=np.float32)
        self.frames = 0

    def feed(self, samples: Samples) -> Sequence[float]:
        self.rest = np.concatenate([self.rest, samples])
        count = self.rest.size // VAD_FRAME_SAMPLES
        frames = self.rest[: count * VAD_FRAME_SAMPLES].reshape(-1, VAD_FRAME_SAMPLES)
        self.rest = self.rest[count * VAD_FRAME_SAMPLES :]
        self.frames += count
        return [float(frame[0] > 0) for frame in frames]


def recording(spans: list[tuple[bool, int]]) -> Samples:
    """Return a sound whose samples tell their own place, negative in silence."""
    speech = np.concatenate([np.full(length, speaks) for speaks, length in spans])
    places = np.arange(1, speech.size + 1, dtype=np.float32)
    return np.where(speech, places, -places).astype(np.float32)


def pieces(sound: Samples, sizes: list[int]) -> Iterator[Samples]:
    at = index = 0
    while at < sound.size:
        size = sizes[index % len(sizes)]
        yield sound[at : at + size]
        at += size
        index += 1


class Window(NamedTuple):
    samples: Samples
    parts: tuple[tuple[int, int], ...]


def cut(sound: Samples, sizes: list[int], cutting: Cutting | None) -> list[Window]:
    found = windows(pieces(sound, sizes), Loud(), cutting)
    return [Window(samples, timeline.parts) for samples, timeline in found]


# float32 tells 16 million places apart, which is 17 minutes.
spans = st.lists(
    st.tuples(st.booleans(), st.integers(1, 40 * SAMPLE_RATE_HZ)), min_size=1, max_size=6
)
sizes = st.lists(st.integers(1, 400_000), min_size=1, max_size=4).filter(lambda s: sum(s) > 20_000)
cuttings = st.builds(
    Cutting,
    threshold=st.sampled_from([0.3, 0.5, 0.9]),
    prefix_padding_ms=st.integers(0, 1000),
    silence_duration_ms=st.integers(0, 2000),
)


@settings(deadline=None, max_examples=60)
@given(spans, sizes)
def test_windows_without_cutting_are_the_recording(
    spans: list[tuple[bool, int]], sizes: list[int]
) -> None:
    sound = recording(spans)
    found = cut(sound, sizes, None)
    assert np.array_equal(np.concatenate([one.samples for one in found]), sound)
    assert all(0 < one.samples.size <= MOST for one in found)
    for one in found:
        ((begin, start),) = one.parts
        assert begin == 0
        assert abs(one.samples[0]) == start + 1


@settings(deadline=None, max_examples=60)
@given(spans, sizes, cuttings)
def test_with_cutting_every_sample_of_speech_is_in_one_window_at_its_place(
    spans: list[tuple[bool, int]], sizes: list[int], cutting: Cutting
) -> None:
    sound = recording(spans)
    found = cut(sound, sizes, cutting)
    heard: list[int] = []
    for one in found:
        assert 0 < one.samples.size <= MOST
        ends = [*(begin for begin, _ in one.parts[1:]), one.samples.size]
        for (begin, start), end in zip(one.parts, ends, strict=True):
            places = np.abs(one.samples[begin:end])
            assert np.array_equal(places, np.arange(start + 1, start + 1 + end - begin))
            heard.extend(range(start, start + end - begin))
    assert heard == sorted(set(heard)), "a sample is heard twice, or out of order"
    whole = sound.size // VAD_FRAME_SAMPLES * VAD_FRAME_SAMPLES
    frames = sound[:whole].reshape(-1, VAD_FRAME_SAMPLES)
    speech = np.flatnonzero(np.repeat(frames[:, 0] > 0, VAD_FRAME_SAMPLES))
    assert np.isin(speech, np.array(heard, dtype=int)).all(), "speech was left out"


@settings(deadline=None, max_examples=40)
@given(spans, sizes, sizes, st.none() | cuttings)
def test_windows_are_the_same_however_the_stream_is_cut(
    spans: list[tuple[bool, int]], one: list[int], other: list[int], cutting: Cutting | None
) -> None:
    sound = recording(spans)
    first, second = cut(sound, one, cutting), cut(sound, other, cutting)
    assert [window.parts for window in first] == [window.parts for window in second]
    for mine, theirs in zip(first, second, strict=True):
        assert np.array_equal(mine.samples, theirs.samples)


def test_what_fits_one_window_is_heard_whole_and_nobody_asks_the_detector() -> None:
    sound = recording([(True, MOST)])
    detector = Loud()
    ((samples, _),) = windows([sound], detector, None)
    assert np.array_equal(samples, sound)
    assert detector.frames == 0


def test_a_long_recording_is_cut_in_the_middle_of_its_pause() -> None:
    second = SAMPLE_RATE_HZ
    first, *_ = cut(
        recording([(True, 24 * second), (False, second), (True, 20 * second)]), [999_999], None
    )
    assert abs(first.samples.size / second - 24.5) < 0.05


def test_without_a_pause_a_window_is_nearly_full() -> None:
    first, *_ = cut(recording([(True, 100 * SAMPLE_RATE_HZ)]), [999_999], None)
    assert first.samples.size >= MOST * 0.6


def test_silence_alone_has_no_window() -> None:
    assert cut(recording([(False, 100 * SAMPLE_RATE_HZ)]), [5000], Cutting()) == []


def test_padding_and_silence_are_as_asked() -> None:
    second = SAMPLE_RATE_HZ
    sound = recording([(False, 2 * second), (True, second), (False, 2 * second), (True, second)])
    cutting = Cutting(prefix_padding_ms=320, silence_duration_ms=640)
    (window,) = cut(sound, [5000], cutting)
    (_, first), (begin, second_start) = window.parts
    assert abs(first / second - (2 - 0.32)) < 0.04
    assert abs(begin / second - (1 + 2 * 0.32)) < 0.07
    assert abs(second_start / second - (5 - 0.32)) < 0.07


def test_a_shorter_silence_than_asked_is_kept() -> None:
    second = SAMPLE_RATE_HZ
    sound = recording([(True, second), (False, second // 2), (True, second)])
    (window,) = cut(sound, [5000], Cutting(silence_duration_ms=1000))
    assert len(window.parts) == 1
    assert window.samples.size >= 2.4 * second


def test_times_of_joined_speech_are_those_of_the_recording() -> None:
    second = SAMPLE_RATE_HZ
    timeline = Timeline(((0, 10 * second), (2 * second, 40 * second)), 5 * second)
    assert timeline.start_s(0.5) == 10.5
    assert timeline.start_s(2.0) == 40.0
    assert timeline.end_s(2.0) == 12.0
    assert timeline.end_s(3.0) == 41.0
    assert timeline.inside_s(1.9, 2.3) == (39.9, 40.3)


def test_a_stream_of_hours_is_cut_as_it_comes() -> None:
    read = 0

    def endless() -> Iterator[Samples]:
        nonlocal read
        while True:
            read += 1
            yield np.ones(SAMPLE_RATE_HZ, dtype=np.float32)

    for cutting in (None, Cutting()):
        read = 0
        cut_up = windows(endless(), Loud(), cutting)
        next(cut_up)
        assert read < 70, "more was read than two windows"
        next(cut_up)
        assert read < 100
