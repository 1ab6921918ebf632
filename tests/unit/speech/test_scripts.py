# ruff: noqa: RUF001  texts of many scripts
from __future__ import annotations

import pytest

from services.speech.engines.scripts import language_by_script, plain_width


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("你好，世界。", "cmn"),
        ("我喜欢 OpenAI 的 API", "cmn"),
        ("今日は良い天気ですね", "ja"),
        ("日语里的の字在中文里到处都能看到，意思是的。", "cmn"),
        ("안녕하세요", "ko"),
        ("مرحبا بالعالم", "ar"),
        ("٢٠٢٤", "ar"),
        ("پنجره را ببند", "fa"),
        ("یہ ٹھیک ہے", "ur"),
        ("Привет, мир", "ru"),
        ("Привіт, світе", "uk"),
        ("Прывітанне, воўк", "be"),
        ("Љубав и ђак", "sr"),
        ("Γειά σου", "el"),
        ("שלום עולם", "he"),
        ("नमस्ते दुनिया", "hi"),
        ("สวัสดี", "th"),
        ("გამარჯობა", "ka"),
        ("The word привет means hello.", "ru"),
    ],
)
def test_the_script_tells_the_language(text: str, language: str) -> None:
    assert language_by_script(text, "en-us") == language


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("Nothing but Latin.", "en-us"),
        ("12 + 3 = 15", "en-us"),
        ("5 μm, and π is 3.14", "en-us"),
        ("Здравейте", "bg"),
        ("मराठी भाषा", "mr"),
        ("東京", "ja"),
        ("Latin letters", "ru"),
        ("", "en-us"),
    ],
)
def test_a_voice_keeps_what_can_be_its_own_language(text: str, own: str) -> None:
    assert language_by_script(text, own) is None


def test_full_and_half_width_forms_become_the_usual_ones() -> None:
    assert plain_width("１２３ＡＢＣ！") == "123ABC!"
    assert plain_width("ｶﾞｷﾞ") == "ガギ"
    assert plain_width("ﬁ ² 你好。") == "ﬁ ² 你好。"
