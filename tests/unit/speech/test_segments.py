# ruff: noqa: RUF001 (the punctuation of many scripts)

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.speech.engines.segments import Segmenter, is_speakable, printable

TEXT = st.text(
    st.sampled_from(list('aB1 .!?,;。！\n"”)é\u200d\0\x01')),
    max_size=600,
)


def segments_of(text: str, longest: int = 200) -> list[str]:
    segmenter = Segmenter(longest)
    return segmenter.feed(text) + segmenter.finish()


@given(text=TEXT, cuts=st.lists(st.integers(0, 600), max_size=8))
def test_chunking_never_changes_segments(text: str, cuts: list[int]) -> None:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    segmenter = Segmenter(40)
    streamed = [
        segment
        for begin, end in itertools.pairwise(bounds)
        for segment in segmenter.feed(text[begin:end])
    ]
    assert streamed + segmenter.finish() == segments_of(text, 40)


@given(TEXT)
def test_no_segment_is_too_long_or_blank_and_no_word_is_lost(text: str) -> None:
    segments = segments_of(text, 40)
    assert all(0 < len(segment) <= 40 and is_speakable(segment) for segment in segments)
    said = [c for c in "".join(segments) if c.isalnum()]
    assert said == [c for c in text if c.isalnum()]


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        (
            "It costs 3.50 in all. That is fine.",
            ["It costs 3.50 in all.", "That is fine."],
        ),
        ("We met Dr. Smith at noon. He left.", ["We met Dr. Smith at noon.", "He left."]),
        (
            "你好，世界这是一个测试句子。第二句话在这里！",
            ["你好，世界这是一个测试句子。", "第二句话在这里！"],
        ),
        ("A title without stop\n\nThen text.", ["A title without stop", "Then text."]),
        ("...!", []),
        ("", []),
    ],
)
def test_text_is_cut_where_sentences_end(text: str, segments: list[str]) -> None:
    assert segments_of(text) == segments


def test_text_without_any_punctuation_is_bounded() -> None:
    assert [len(segment) for segment in segments_of("x" * 1000)] == [200] * 5
    assert max(map(len, segments_of("word " * 500))) <= 200


def test_controls_private_use_and_surrogates_become_spaces_and_emoji_stay() -> None:
    assert printable("a\0b\x01c\ue001d\ud800e\nf 👩‍💻") == "a b c d e\nf 👩‍💻"


@pytest.mark.parametrize("text", ["", "  \n\t", "...", "?!", "-- ''", "\0\x01", "\u200b"])
def test_blank_and_punctuation_are_not_speakable(text: str) -> None:
    assert not is_speakable(text)


@pytest.mark.parametrize("text", ["a", "7", "+", "€", "😀", "ß", "語", "١"])
def test_letters_digits_and_symbols_are_speakable(text: str) -> None:
    assert is_speakable(text)
