# ruff: noqa: RUF001 (the punctuation of many scripts)

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.speech.engines.cosyvoice import split as splitting
from services.speech.engines.cosyvoice.split import LONGEST, Splitter
from services.speech.engines.cosyvoice.text import is_sayable

WORDS = [
    "ja",
    "word",
    "Dr",
    "3",
    "20",
    "Übermorgen",
    "好",
    "天气",
    "です",
    "слово",
    "말",
    "[laughter]",
]
ENDS = [" ", " ", " ", "", ", ", ". ", "。", "! ", "？", "，", "\n\n", "😀", "…", '." ']
TEXT = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(ENDS)), max_size=250).map(
    lambda pairs: "".join(itertools.chain.from_iterable(pairs))
)


def count_tokens(text: str) -> int:
    """Return about what a tokenizer would."""
    return len(re.findall(r"\w{1,4}|[^\w\s]", text))


def split(text: str) -> list[str]:
    return list(splitting.split(text, count_tokens))


def streamed(pieces: list[str]) -> list[str]:
    splitter = Splitter(count_tokens)
    fed = [segment for piece in pieces for segment in splitter.feed(piece)]
    return [*fed, *splitter.finish()]


def size(text: str) -> int:
    cjk = len(re.findall("[\u3041-\u30ff\u3400-\u9fff\uac00-\ud7a3]", text))
    return max(count_tokens(text), cjk) + sum(map(str.isdigit, text))


def letters(text: str) -> str:
    return "".join(re.findall(r"\w", text))


@given(text=TEXT, cuts=st.lists(st.integers(0, 2000), max_size=8))
def test_chunking_never_changes_segments(text: str, cuts: list[int]) -> None:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[begin:end] for begin, end in itertools.pairwise(bounds)]
    assert streamed(pieces) == streamed([text]) == streamed(list(text))


@given(TEXT)
def test_no_segment_is_too_long_or_says_nothing_and_no_word_is_lost(text: str) -> None:
    for segments in (split(text), streamed([text])):
        assert all(size(segment) <= LONGEST and is_sayable(segment) for segment in segments)
        assert letters("".join(segments)) == letters(text)


@given(TEXT)
def test_no_scrap_is_spoken_alone_when_there_is_more(text: str) -> None:
    for segments in (split(text), streamed([text])):
        assert all(size(segment) >= 8 for segment in segments[:-1])


@pytest.mark.parametrize(
    "sentences",
    [
        [
            "今天的天气非常好，我们一起去公园吧。",
            "你觉得这个主意怎么样呢，朋友？",
            "那里有很多漂亮的花和树！",
        ],
        [
            "今日はとても良い天気ですね、本当に。",
            "一緒に公園へ行きませんか、皆さん？",
            "そこには花がたくさんあります！",
        ],
        [
            "오늘은 날씨가 정말 좋네요, 그렇죠?",
            "우리 함께 공원에 가서 산책합시다.",
            "거기에는 꽃이 아주 많습니다!",
        ],
        [
            "The weather is lovely today, isn't it?",
            "Dr. Who paid $3.50 for it, e.g. in cash.",
            "He left at once!",
        ],
        [
            "Wir treffen uns am 13. Mai um 3.30 Uhr, z. B. hier.",
            "Nr. 5 lebt noch und wartet auf uns.",
            "Das freut uns sehr!",
        ],
        [
            "Ayer vino el Sr. García a nuestra casa.",
            "¿Qué le parece todo esto, señor?",
            "¡Vamos todos juntos al parque!",
        ],
        [
            "Il fait très beau aujourd'hui, n'est-ce pas ?",
            "M. Dupont arrive à 10h30 avec ses amis.",
            "Allons tous ensemble au parc !",
        ],
        [
            "Oggi il tempo è davvero molto bello.",
            "Il Dott. Rossi arriva alle 10:30 in punto.",
            "Andiamo tutti insieme al parco!",
        ],
        [
            "Сегодня очень хорошая погода, правда?",
            "А. С. Пушкин родился в Москве, т.е. здесь.",
            "Пойдём вместе в парк!",
        ],
    ],
    ids=["zh", "ja", "ko", "en", "de", "es", "fr", "it", "ru"],
)
def test_a_stream_is_cut_where_sentences_end(sentences: list[str]) -> None:
    space = "" if sentences[0].startswith("今") else " "
    assert streamed([space.join(sentences)]) == sentences


def test_a_sentence_is_given_out_as_soon_as_it_is_complete() -> None:
    splitter = Splitter(count_tokens)
    assert list(splitter.feed("This is a whole sentence for the ear.")) == []  # a quote may follow
    assert list(splitter.feed(" ")) == ["This is a whole sentence for the ear."]
    assert list(splitter.feed("The next one is comp")) == []
    assert list(splitter.feed("lete as well, of course. And")) == [
        "The next one is complete as well, of course."
    ]
    assert list(splitter.finish()) == ["And"]


def test_a_sentence_of_a_few_words_waits_for_the_next_one() -> None:
    splitter = Splitter(count_tokens)
    assert list(splitter.feed("Yes, of course! Now")) == []
    assert list(splitter.feed(" let us begin with it. ")) == [
        "Yes, of course! Now let us begin with it."
    ]
    assert list(splitter.feed("好的，没问题！我们")) == []
    assert list(splitter.feed("现在就开始吧，请坐。谢")) == [
        "好的，没问题！我们现在就开始吧，请坐。"
    ]
    assert list(splitter.feed("谢大家今天来到这里。好")) == ["谢谢大家今天来到这里。"]


def test_a_whole_text_starts_short_and_gathers_its_sentences() -> None:
    text = "This sentence has just about ten tokens in it. " * 20
    sizes = [size(segment) for segment in split(text)]
    assert sizes[0] < 20
    assert 30 <= sizes[1] < 60
    assert all(60 <= each <= LONGEST for each in sizes[2:])


def test_a_long_first_sentence_is_divided_at_a_comma() -> None:
    clauses = ["when the long day is finally over", "the people of the town go home again"]
    text = ", ".join(clauses * 3) + "."
    assert split(text)[0].endswith(("over,", "again,"))
    assert size(split(text)[0]) <= 40
    assert split(text)[0] == streamed([text])[0]


def test_a_short_rest_goes_with_the_segment_before() -> None:
    text = "This sentence has just about ten tokens in it. " * 10 + "That is all."
    assert split(text)[-1].endswith("in it. That is all.")


@pytest.mark.parametrize("text", ["", " ", "…?!", "😀😀", "\n\n", "！。"])
def test_nothing_to_say_is_no_segment(text: str) -> None:
    assert split(text) == streamed([text]) == []


@pytest.mark.parametrize(
    "text", ["x" * 2000, "好" * 2000, "1" * 2000, "word " * 500, "[breath]" * 300]
)
def test_text_without_any_end_is_bounded(text: str) -> None:
    for segments in (split(text), streamed([text])):
        assert max(map(size, segments)) <= LONGEST
        assert letters("".join(segments)) == letters(text)


def test_the_first_segment_comes_before_the_rest_is_measured() -> None:
    measured = []

    def count(text: str) -> int:
        measured.append(text)
        return count_tokens(text)

    text = "This sentence has just about ten tokens in it. " * 80
    next(splitting.split(text, count))
    assert len(measured) < 40
