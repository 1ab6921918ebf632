from __future__ import annotations

import json
import random
import re

import pytest

from ci.demo_model.conversations import Sampler, answers_of, held_by_heart
from ci.demo_model.corpus import Corpus, load


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load()


def normalised(question: str) -> str:
    """Return a phrasing without case and closing punctuation, to compare it with others."""
    return re.sub(r"[\s.!?。！？]+$", "", question.strip()).casefold()  # noqa: RUF001


def test_every_question_has_one_answer(corpus: Corpus) -> None:
    answers: dict[str, set[str]] = {}
    for entry in corpus.entries:
        for phrasing in entry.ask:
            answers.setdefault(normalised(phrasing), set()).add(entry.answer)
    assert {question: said for question, said in answers.items() if len(said) > 1} == {}


def test_three_languages_are_spoken(corpus: Corpus) -> None:
    assert {topic.language for topic in corpus.topics} == {"en", "de", "zh"}
    assert {fallback.language for fallback in corpus.fallbacks} == {"en", "de", "zh"}


def test_an_answer_with_a_schema_satisfies_it(corpus: Corpus) -> None:
    checked = 0
    for topic in corpus.topics:
        if topic.schema:
            assert list(json.loads(topic.answer)) == topic.schema["required"]
            checked += 1
    assert checked == 3


def test_the_same_seed_draws_the_same_conversations(corpus: Corpus) -> None:
    one, two = (Sampler(corpus, random.Random(3)) for _ in range(2))  # noqa: S311 - not secret
    assert [one.draw() for _ in range(300)] == [two.draw() for _ in range(300)]


def test_a_drawn_question_of_the_corpus_is_followed_by_its_answer(corpus: Corpus) -> None:
    sampler = Sampler(corpus, random.Random(5))  # noqa: S311 - not secret
    answers = {normalised(p): entry.answer for entry in corpus.entries for p in entry.ask}
    known = 0
    for _ in range(1000):
        drawn = sampler.draw()
        for asked, said in zip(drawn.messages, drawn.messages[1:], strict=False):
            if asked["role"] == "user" and not drawn.forced and not said.get("tool_calls"):
                expected = answers.get(normalised(asked["content"]))
                if expected is not None:
                    known += 1
                    assert said["content"] == expected
    assert known > 300


def test_every_phrasing_is_among_the_answers_to_hold(corpus: Corpus) -> None:
    entries = answers_of(list(held_by_heart(corpus)), corpus)
    asked = {e["messages"][0]["content"] for e in entries if len(e["messages"]) == 1}
    phrasings = {p for entry in corpus.entries for p in entry.ask}
    assert phrasings <= asked


def test_a_call_travels_with_its_arguments_as_text(corpus: Corpus) -> None:
    entries = answers_of(list(held_by_heart(corpus)), corpus)
    sent = [m for e in entries for m in e["messages"] if "tool_calls" in m]
    assert sent
    for message in sent:
        function = message["tool_calls"][0]["function"]
        assert isinstance(json.loads(function["arguments"]), dict)
