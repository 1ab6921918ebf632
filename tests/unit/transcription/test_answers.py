from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
import srt
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from services.transcription.answers import (
    VTT_HEAD,
    Answer,
    srt_cue,
    text_piece,
    usage_by_tokens,
    vtt_cue,
)
from services.transcription.engines.protocol import Segment, TranscriptionRequest

ASKED = TranscriptionRequest([])
TEXTS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t"), min_size=1
).filter(lambda text: text.split())
TIMES = st.lists(st.floats(0, 100 * 3600), min_size=2, max_size=2).map(sorted)


@st.composite
def segments(draw: st.DrawFn) -> list[Segment]:
    drawn = draw(st.lists(st.tuples(TIMES, TEXTS), min_size=1, max_size=5))
    return [Segment(begin, end, text, "en") for (begin, end), text in drawn]


@given(segments())
def test_subrip_gives_back_times_and_words_whatever_was_said(said: list[Segment]) -> None:
    text = "".join(srt_cue(index, one) for index, one in enumerate(said))
    cues = list(srt.parse(text))
    assert [cue.index for cue in cues] == [index + 1 for index in range(len(said))]
    for cue, one in zip(cues, said, strict=True):
        assert abs(cue.start - timedelta(seconds=one.start_s)) <= timedelta(milliseconds=1)
        assert abs(cue.end - timedelta(seconds=one.end_s)) <= timedelta(milliseconds=1)
        assert cue.content == " ".join(one.text.split()).replace("-->", "->")


@given(segments())
def test_webvtt_gives_back_times_and_words_whatever_was_said(said: list[Segment]) -> None:
    text = VTT_HEAD + "".join(vtt_cue(index, one) for index, one in enumerate(said))
    cues = list(webvtt.from_string(text))
    assert len(cues) == len(said)
    for cue, one in zip(cues, said, strict=True):
        assert abs(cue.start_in_seconds - one.start_s) <= 1.001
        assert "<" not in cue.raw_text
        assert "-->" not in cue.raw_text


@pytest.mark.parametrize(
    ("seconds", "clock"),
    [(0, "00:00:00,000"), (59.9996, "00:01:00,000"), (3599.9999, "01:00:00,000")],
)
def test_a_clock_carries_what_is_rounded_up(seconds: float, clock: str) -> None:
    assert srt_cue(0, Segment(seconds, seconds, " a", "en")).splitlines()[1].startswith(clock)


def test_an_arrow_or_a_blank_line_in_a_text_ends_no_cue() -> None:
    said = [Segment(0, 1, " 1 --> 2\n\n3", "en"), Segment(1, 2, " <b>&", "en")]
    (first, second) = srt.parse("".join(srt_cue(*one) for one in enumerate(said)))
    assert (first.content, second.content) == ("1 -> 2 3", "<b>&")
    assert "&lt;b&gt;&amp;" in vtt_cue(1, said[1])


def answer(
    said: list[Segment], request: TranscriptionRequest = ASKED, seconds: float = 2.0
) -> dict[str, Any]:
    """Return the whole answer to what was said."""
    sound = cast("Any", SimpleNamespace(seconds=seconds, lost_s=0.0))
    made = Answer(
        engine=cast("Any", None),
        request=request,
        recording=sound,
        response_format="verbose_json",
        with_segments=True,
        as_events=False,
        on_audio_seconds=print,
        heard=said,
    )
    return made.as_verbose_json()


def test_pieces_joined_are_the_whole_text() -> None:
    said = [Segment(0, 1, " One.", "en"), Segment(1, 2, " Two.", "en")]
    pieces = "".join(text_piece(*one) for one in enumerate(said))
    assert pieces == answer(said)["text"] == "One. Two."


def test_the_language_is_the_first_segment_s_or_the_one_that_was_named() -> None:
    assert answer([Segment(0, 1, "a", "de")])["language"] == "german"
    assert answer([], TranscriptionRequest([], language="fr"))["language"] == "french"
    assert answer([])["language"] == "unknown"
    assert answer([], TranscriptionRequest([], language="yue"))["language"] == "cantonese"


def test_seconds_and_tokens_are_counted_as_openai_counts_them() -> None:
    whole = answer([], seconds=2.01)
    assert whole["usage"] == {"type": "duration", "seconds": 3}
    assert whole["duration"] == 2.01
    assert usage_by_tokens(2.01, 3, 4) == {
        "type": "tokens",
        "input_tokens": 24,
        "input_token_details": {"audio_tokens": 21, "text_tokens": 3},
        "output_tokens": 4,
        "total_tokens": 28,
    }
