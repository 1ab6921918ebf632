"""What the CosyVoice benchmark measures of a stream."""

from __future__ import annotations

import pytest

from benchmarks.streams import Stream, Turn, continuity


def test_a_stream_that_stays_ahead_of_its_player_never_runs_dry() -> None:
    stream = Stream(((0.3, 1.0), (1.2, 1.0), (2.2, 1.0)))
    assert stream.worst_underrun_s == 0
    assert stream.first_s == 0.3
    assert stream.audio_s == 3
    assert stream.real_time_factor == pytest.approx(2.2 / 3)


def test_the_worst_underrun_is_one_silence_and_the_player_waits_through_it() -> None:
    stream = Stream(((0.5, 1.0), (1.7, 1.0), (3.0, 1.0)))  # dry at 1.5, then at 2.7
    assert stream.worst_underrun_s == pytest.approx(0.3)


def test_continuity_is_the_share_of_streams_below_a_tenth_of_a_second() -> None:
    smooth = Stream(((0.5, 1.0), (1.59, 1.0)))
    broken = Stream(((0.5, 1.0), (1.61, 1.0)))
    assert continuity([Turn(2.0, (smooth, broken)), Turn(2.0, (smooth, smooth))]) == 0.75


def test_a_turn_counts_all_audio_over_the_time_of_the_slowest() -> None:
    turn = Turn.of({"wall_s": 4.0, "streams": [[[0.2, 1.0], [0.3, 0.0]], [[0.4, 3.0]]]})
    assert turn.audio_per_s == 1.0
    assert turn.first_ms == pytest.approx(300)


def test_a_stream_without_audio_is_no_result() -> None:
    with pytest.raises(ValueError, match="without audio"):
        Turn.of({"wall_s": 1.0, "streams": [[[0.2, 0.0]]]})
