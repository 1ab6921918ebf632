from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.transcription.engines.protocol import SAMPLE_RATE_HZ, VAD_FRAME_SAMPLES, Cutting
from services.transcription.live.turns import Sound, Started, Stopped, TurnDetector, TurnEvent

FRAME_MS = VAD_FRAME_SAMPLES * 1000 // SAMPLE_RATE_HZ
TURNS = Cutting(silence_duration_ms=500)


class Told:
    """A detector whose probability for a frame is in its samples."""

    def feed(self, samples: np.ndarray) -> list[float]:
        assert samples.size % VAD_FRAME_SAMPLES == 0
        return [float(frame.mean()) for frame in samples.reshape(-1, VAD_FRAME_SAMPLES)]


def frames(*probabilities: float) -> np.ndarray:
    return np.repeat(np.array(probabilities, dtype=np.float32), VAD_FRAME_SAMPLES)


def found(
    samples: np.ndarray, cutting: Cutting = TURNS, cuts: tuple[int, ...] = ()
) -> list[TurnEvent]:
    detector = TurnDetector(Told(), cutting)
    return [event for part in np.split(samples, list(cuts)) for event in detector.feed(part)]


def turns(events: list[TurnEvent]) -> list[tuple[int, list[float], int | None]]:
    """Return each turn's beginning, its sound, and its end if it has one."""
    made: list[tuple[int, list[float], int | None]] = []
    for event in events:
        if isinstance(event, Started):
            made.append((event.start_ms, [], None))
        elif isinstance(event, Sound):
            made[-1][1].extend(event.samples.tolist())
        else:
            made[-1] = (*made[-1][:2], event.end_ms)
    return made


def test_a_turn_begins_with_padding_and_ends_after_silence() -> None:
    samples = frames(*[0] * 20, *[1] * 10, *[0] * 20)
    ((start_ms, sound, end_ms),) = turns(found(samples))
    assert start_ms == 20 * FRAME_MS - 300
    assert end_ms == 46 * FRAME_MS  # 16 frames are the first that last 500 ms
    begin = start_ms * SAMPLE_RATE_HZ // 1000
    assert sound == samples[begin : 46 * VAD_FRAME_SAMPLES].tolist()


def test_a_pause_shorter_than_the_silence_is_part_of_the_turn() -> None:
    ((_, sound, end_ms),) = turns(found(frames(1, *[0] * 15, 1, *[0] * 15)))
    assert end_ms is None
    assert len(sound) == 32 * VAD_FRAME_SAMPLES


def test_padding_is_never_sound_of_the_turn_before() -> None:
    first, second = turns(found(frames(1, 1, *[0] * 16, 0, 0, 1)))
    assert first[2] == 18 * FRAME_MS
    assert second[0] == 18 * FRAME_MS
    assert len(second[1]) == 3 * VAD_FRAME_SAMPLES


def test_speech_that_has_begun_may_become_a_little_less_sure() -> None:
    quiet = [0.4] * 20
    assert turns(found(frames(*quiet))) == []
    ((_, _, end_ms),) = turns(found(frames(0.5, *quiet)))
    assert end_ms is None
    ((_, _, end_ms),) = turns(found(frames(0.5, *[0.3] * 16)))
    assert end_ms == 17 * FRAME_MS


def test_threshold_padding_and_silence_are_what_the_client_says() -> None:
    cutting = Cutting(threshold=0.9, prefix_padding_ms=0, silence_duration_ms=32)
    ((start_ms, sound, end_ms),) = turns(found(frames(0.8, 0.8, 1, 0), cutting))
    assert (start_ms, end_ms, len(sound)) == (64, 128, 2 * VAD_FRAME_SAMPLES)


def test_speech_that_is_too_short_is_no_turn() -> None:
    cutting = Cutting(prefix_padding_ms=64, silence_duration_ms=32, min_speech_duration_ms=90)
    assert turns(found(frames(0, 0, 0, 1, 1, 0, 1, 1, 0), cutting)) == []
    samples = frames(0, 0, 0, 1, 1, 0, 0.5, 0.4, 1, 0)
    for cuts in ((), (4 * VAD_FRAME_SAMPLES, 7 * VAD_FRAME_SAMPLES + 5)):
        ((start_ms, sound, end_ms),) = turns(found(samples, cutting, cuts))
        assert (start_ms, end_ms) == (4 * FRAME_MS, 10 * FRAME_MS)
        assert sound == samples[4 * VAD_FRAME_SAMPLES :].tolist()


def test_a_turn_that_is_cut_off_goes_on_as_another_without_its_sound() -> None:
    detector = TurnDetector(Told(), TURNS)
    before = list(detector.feed(np.concatenate([frames(1, 1), frames(1)[:100]])))
    assert detector.cut().size == 100
    after = list(detector.feed(frames(1)))
    assert len(turns(before)[0][1]) == 2 * VAD_FRAME_SAMPLES
    ((start_ms, sound, _),) = turns(after)
    assert start_ms == (2 * VAD_FRAME_SAMPLES + 100) * 1000 // SAMPLE_RATE_HZ
    assert len(sound) == VAD_FRAME_SAMPLES


def test_silence_that_is_cut_off_is_no_padding() -> None:
    detector = TurnDetector(Told(), TURNS)
    assert list(detector.feed(frames(0, 0, 0, 0))) == []
    assert detector.cut().size == 0
    assert turns(list(detector.feed(frames(0, 1))))[0][0] == 4 * FRAME_MS


def test_times_count_from_the_beginning_of_the_session() -> None:
    detector = TurnDetector(Told(), TURNS, 16_000)
    assert next(iter(detector.feed(frames(1)))) == Started(1000)


@given(
    probabilities=st.lists(st.sampled_from([0.0, 0.2, 0.4, 0.6, 1.0]), max_size=60),
    cuts=st.lists(st.integers(0, 60 * VAD_FRAME_SAMPLES), max_size=8),
    silence_ms=st.sampled_from([0, 32, 200, 500]),
    padding_ms=st.sampled_from([0, 50, 300]),
)
def test_turns_do_not_depend_on_how_the_sound_was_cut_and_lose_none_of_it(
    probabilities: list[float], cuts: list[int], silence_ms: int, padding_ms: int
) -> None:
    samples = frames(*probabilities)
    cutting = Cutting(prefix_padding_ms=padding_ms, silence_duration_ms=silence_ms)
    whole = found(samples, cutting)
    assert turns(found(samples, cutting, tuple(sorted(cuts)))) == turns(whole)
    before = 0
    for start_ms, sound, end_ms in turns(whole):
        begin = start_ms * SAMPLE_RATE_HZ // 1000
        assert begin >= before
        assert sound == samples[begin : begin + len(sound)].tolist()
        before = begin + len(sound)
        assert end_ms in (None, before * 1000 // SAMPLE_RATE_HZ)
    assert sum(isinstance(event, Stopped) for event in whole) in {
        len(turns(whole)),
        len(turns(whole)) - 1,
    }


@pytest.mark.parametrize("padding_ms", [0, 300, 10_000])
def test_silence_takes_no_more_memory_than_the_padding(padding_ms: int) -> None:
    detector = TurnDetector(Told(), Cutting(prefix_padding_ms=padding_ms))
    for _ in range(100):
        assert list(detector.feed(frames(*[0] * 100))) == []
    assert detector._padding.size <= padding_ms * SAMPLE_RATE_HZ // 1000
