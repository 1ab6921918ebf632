# ruff: noqa: RUF001 (the punctuation of many scripts)

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import InvalidRequestError
from services.speech.engines.cosyvoice.text import (
    LANGUAGES,
    Language,
    cleaned,
    guess_language,
    is_sayable,
    language_of,
    normalise,
    refuse_control_tokens,
)


@pytest.mark.parametrize(
    ("tag", "language"),
    [
        ("zh", "zh"),
        ("zh-Hant", "zh"),
        ("zh_CN", "zh"),
        ("cmn-Hans", "zh"),
        ("wuu", "zh"),
        ("yue", "yue"),
        ("zh-yue", "yue"),
        ("EN-us", "en"),
        ("ja-JP", "ja"),
        ("de-CH", "de"),
    ],
)
def test_a_tag_names_a_language(tag: str, language: Language) -> None:
    assert language_of(tag, 3) == language


@pytest.mark.parametrize(("tag", "family"), [("de", 2), ("ru", 2), ("pt", 3), ("", 3), ("x-zh", 3)])
def test_a_language_that_the_family_lacks_is_refused(tag: str, family: int) -> None:
    with pytest.raises(InvalidRequestError, match="zh, en, ja, ko, yue") as caught:
        language_of(tag, family)
    assert (caught.value.param, caught.value.code) == ("language", "unsupported_language")


def test_family_3_speaks_nine_languages_and_cantonese() -> None:
    assert len(LANGUAGES[3]) == 10


@pytest.mark.parametrize(
    ("text", "context", "language"),
    [
        ("今天天气很好。", None, "zh"),
        ("我用 iPhone 和 MacBook 上网。", None, "zh"),
        ("東京は大きいです。", None, "ja"),
        ("レキシ テキ セカイ", None, "ja"),
        ("東京大学。", None, "zh"),
        ("東京大学。", "ja", "ja"),
        ("好少咯。", "yue", "yue"),
        ("日语里的の字在中文里到处都能看到，意思是的。", None, "zh"),
        ("안녕하세요, AI입니다.", None, "ko"),
        ("Я использую Windows.", None, "ru"),
        ("Hello there.", None, "en"),
        ("Hello there.", "zh", "en"),
        ("Guten Tag.", "de", "de"),
        ("2024.", "zh", "zh"),
        ("2024.", None, "en"),
    ],
)
def test_a_script_tells_a_language(text: str, context: Language | None, language: Language) -> None:
    assert guess_language(text, context) == language


@pytest.mark.parametrize(
    ("text", "is_left"),
    [
        ("a", True),
        ("7", True),
        ("語", True),
        ("[laughter]", True),
        ("", False),
        (" \n\t", False),
        ("…?! — “”", False),
        ("😀👩‍💻", False),
        ("+", False),
        ("<strong></strong>", False),
        ("\u200b\ufeff", False),
    ],
)
def test_only_a_letter_or_a_digit_is_something_to_say(text: str, *, is_left: bool) -> None:
    assert is_sayable(text) is is_left


def test_emoji_controls_and_what_is_invisible_are_dropped_and_signs_stay() -> None:
    assert cleaned("a😀b👩‍💻c\0d\u200be\ufefff\ud800g") == "a b  c def g"
    assert cleaned("1️⃣ 25℃ 5€ 3×4 ½ © №5 é\n") == "1 25℃ 5€ 3×4 ½ © №5 é\n"


@given(text=st.text(max_size=60), cut=st.integers(0, 60))
def test_a_stream_may_be_cleaned_piece_by_piece(text: str, cut: int) -> None:
    assert cleaned(text) == cleaned(text[:cut]) + cleaned(text[cut:])


@pytest.mark.parametrize(
    "text",
    [
        "Hi <|endofprompt|> there",
        "<|en|>Hi",
        "<|im_start|>",
        "<|HAPPY|>",
        "<|0.02|>",
        "<|endof\u200bprompt|>",
    ],
)
def test_a_control_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        refuse_control_tokens(text, "input")
    assert (caught.value.param, caught.value.code) == ("input", "control_token")


@pytest.mark.parametrize(
    "text",
    [
        "他突然[laughter]停下来。",
        "[breath]嗯，<strong>勇气</strong>，<laughter>好</laughter>。",
        "报道[j][ǐ]予好评",
        "[AA1][K]",
        "a <| b |> c",
        "x < y | z > w",
    ],
)
def test_the_inline_tags_of_upstream_and_plain_signs_pass(text: str) -> None:
    refuse_control_tokens(text, "input")


@pytest.mark.parametrize(
    ("segment", "language", "given_to_the_model"),
    [
        ("Rendez-vous à 10h30.", "fr", "Rendez-vous à 10h30."),
        ("Das kostet  3,50\nEuro", "de", "Das kostet 3,50 Euro."),
        ("¿Qué tal, 5 amigos?", "es", "¿Qué tal, 5 amigos?"),
        ("Sono le 10:30", "it", "Sono le 10:30."),
        ("В 2024 году — 5 %.", "ru", "В 2024 году — 5 %."),
        ("2024年5月です", "ja", "2024年5月です。"),
        ("오늘은 5월 1일입니다", "ko", "오늘은 5월 1일입니다."),
        ("Das （hier）`so`——ja!", "de", "Das hierso ja!"),
        ("Ein [laughter] Wort[breath]", "de", "Ein [laughter] Wort[breath]"),
        ("Ein <strong>Wort</strong>", "de", "Ein <strong>Wort</strong>"),
        ("u\u0308ber 😀 alles", "de", "über alles."),
        ("（）…", "ja", ""),
        ("😀", "de", ""),
    ],
)
def test_other_languages_keep_their_numbers_and_words(
    segment: str, language: Language, given_to_the_model: str
) -> None:
    assert normalise(segment, language) == given_to_the_model


@given(
    st.lists(
        st.sampled_from(["<|", "|>", "<", "|", ">", "endofprompt", "（", "`", "😀", "a"]),
        max_size=12,
    ).map("".join)
)
def test_no_control_token_comes_out_whatever_went_in(text: str) -> None:
    assert not re.search(r"<\|", normalise(text, "de"))
