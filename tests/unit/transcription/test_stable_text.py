from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.languages import gap
from services.transcription.live.transcriber import StableText, continues

WORDS = st.lists(st.text("ab,.", min_size=1, max_size=3), max_size=8)
GUESSES = st.lists(WORDS.map(" ".join) | st.text("ab 私の,", max_size=12), max_size=12)


def stable(*guesses: str) -> tuple[str, list[str]]:
    text = StableText()
    new = [text.add(guess) for guess in guesses]
    return text.text, new


def test_a_word_is_stable_once_two_guesses_agree_and_another_follows_it() -> None:
    assert stable("the", "the cat", "the cat sat") == ("the", ["", "", "the"])
    assert stable("the cat sat", "the cat sat on") == ("the cat", ["", "the cat"])
    assert stable("the cat", "a cat sat", "a cat is here") == ("a cat", ["", "", "a cat"])


def test_what_only_one_guess_says_is_not_stable() -> None:
    assert stable("one two three", "one too three", "one two three")[0] == "one"
    assert stable("one two three", "one two tree", "one two three four")[0] == "one two"


def test_a_guess_that_takes_stable_text_back_is_left_out() -> None:
    text, new = stable("one two three", "one two three", "two three four", "one two three four")
    assert (text, new) == ("one two", ["", "one two", "", ""])


def test_scripts_without_spaces_are_stable_by_the_character() -> None:
    assert stable("今天天气", "今天天气很好")[0] == "今天天"
    assert stable("私はJohn Smith", "私はJohn Smithです")[0] == "私はJohn"


def test_a_text_does_not_continue_in_the_middle_of_a_word() -> None:
    assert not continues("Hellos there", "Hello")
    assert continues("Hello, there", "Hello")
    assert continues("Hello", "Hello")
    assert continues("今天天气", "今天")
    assert not continues("Hallo", "Hello")


@pytest.mark.parametrize(
    ("before", "after", "between"),
    [("one", "two", " "), ("", "two", ""), ("one", "", ""), ("今天", "天气", ""), ("今", "a", "")],
)
def test_pieces_are_joined_as_their_script_is_written(
    before: str, after: str, between: str
) -> None:
    assert gap(before, after) == between


@given(GUESSES)
def test_stable_text_only_grows_and_is_what_two_guesses_in_a_row_say(guesses: list[str]) -> None:
    text = StableText()
    before = ""
    for earlier, guess in zip(["", *guesses], guesses, strict=False):
        new = text.add(guess)
        assert text.text == before + new
        if new:
            assert continues(guess.strip(), text.text)
            assert earlier.strip().startswith(text.text)
            assert guess.strip() != text.text  # its last word may be half a word
        before = text.text


@given(WORDS.filter(bool), st.data())
def test_an_engine_that_keeps_to_the_stable_text_has_all_words_but_its_last_stable(
    words: list[str], data: st.DataObject
) -> None:
    spoken = " ".join(words)
    text = StableText()
    for count in range(1, len(words) + 1):
        heard = " ".join(words[:count])
        heard = heard[: -data.draw(st.integers(0, 1))] or heard  # its end wavers
        text.add(heard if continues(heard, text.text) else text.text + heard[len(text.text) :])
        assert spoken.startswith(text.text)
    text.add(spoken)
    text.add(spoken)
    assert text.text == " ".join(words[:-1])
