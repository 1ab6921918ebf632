"""How upstream's frontend changes a text, and how its tokenizers treat our marks."""

# ruff: noqa: RUF001, PLC0415 (the punctuation of many scripts; upstream's code is found by `load`)

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from services.speech.engines.cosyvoice import upstream_code
from services.speech.engines.cosyvoice.text import normalise

if TYPE_CHECKING:
    from services.speech.engines.cosyvoice.text import Language

# Upstream's tokenizer leaves its vocabulary file open.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CHINESE = [
    "收到好友从远方寄来的生日礼物，那份意外的惊喜与深深的祝福让我心中充满了甜蜜的快乐，笑容如花儿般绽放。",
    "今天是2024年5月1日，气温23.5℃，湿度60%。",
    "他的电话是13800138000，花了$3.50和￥1,200。",
    "现在是12:30，比分是3:2。",
    "这块地有100m²，箱子是2m³。",
    "我 在用 iPhone 15 和 MacBook Pro 上网。",
    "（这是）【一个】`测试`——好吗？",
    "哪儿好玩儿？ 公园 - 那里。",
    "他突然[laughter]停下来，因为他自己也被逗笑了[laughter]。",
    "在面对挑战时，他展现了非凡的<strong>勇气</strong>与<strong>智慧</strong>。",
    "高管也通过电话、短信、微信等方式对报道[j][ǐ]予好评。",
    "繁體中文也可以，總共３個。",
    "访问 www.example.com 吧！",
    "最后，",
    "没有句号",
    "呃，我想，嗯，是的啊！",
]
ENGLISH = [
    "The weather is lovely today, isn't it?",
    "It costs $3.50 at 5:30 p.m. on 2024-05-01.",
    "Dr. Smith paid 1,234,567 dollars for 12 apples and 3/4 of a cup.",
    "He came 1st, she came 2nd; 50% of 200 is 100!",
    "Tom & Jerry wrote to a@b.com in C++.",
    "“Quoted” text [laughter] and a [breath] of <strong>air</strong>.",
    "x = 5 + 3",
    "No full stop",
    "Room 007 has 25 people.",
]


@cache
def upstream() -> Any:
    """Return upstream's frontend with its text parts only."""
    upstream_code.load()
    import inflect
    import wetext
    from cosyvoice.cli.frontend import CosyVoiceFrontEnd
    from cosyvoice.tokenizer.tokenizer import get_tokenizer

    frontend = CosyVoiceFrontEnd.__new__(CosyVoiceFrontEnd)
    frontend.tokenizer = get_tokenizer(multilingual=True, num_languages=100)
    frontend.allowed_special = "all"
    frontend.inflect_parser = inflect.engine()
    frontend.zh_tn_model = wetext.Normalizer(remove_erhua=False)
    frontend.en_tn_model = wetext.Normalizer()
    frontend.text_frontend = "wetext"  # upstream's name
    frontend.use_ttsfrd = False  # and that of the copy on the package index
    return frontend


@pytest.mark.parametrize(
    ("text", "language"),
    [*((text, "zh") for text in CHINESE), *((text, "en") for text in ENGLISH)],
)
def test_chinese_and_english_are_normalised_as_upstream_does(text: str, language: Language) -> None:
    theirs = upstream().text_normalize(text, split=False)
    if theirs[-1].isalnum():  # upstream's splitting closes what has no end
        theirs = "".join(upstream().text_normalize(text))
    assert normalise(text, language) == theirs


@pytest.mark.parametrize("text", ["呃，我不知道。", "嗯，好的啊！", "那个，呃，唉。", "哎呀，哦！"])
def test_interjections_are_still_said(text: str) -> None:
    assert normalise(text, "zh") == text


@pytest.mark.parametrize("text", ["See [5] and [12].", "It is ±3 km.", "a  b   5\nc", "[AA1][K] 5"])
def test_what_upstream_gives_up_on_is_still_spoken(text: str) -> None:
    with pytest.raises(AssertionError):
        upstream().text_normalize(text, split=False)
    assert "5" not in normalise(text, "en").replace("[5]", "")


@pytest.mark.parametrize(
    ("text", "language", "given_to_the_model"),
    [
        ("m² or x³ of 1", "en", "m squared or x cubed of one."),
        ("[AA1] is 1", "en", "[AA1] is one."),
        ("[AA1]是1", "zh", "[AA1]是一。"),
        ("It costs $3.50 你好", "en", "It costs三点五零美元你好。"),
        ("😀 2 <|en|> `code`", "en", "two < en|> code."),
    ],
)
def test_where_upstream_spoils_a_text_ours_does_not(
    text: str, language: Language, given_to_the_model: str
) -> None:
    assert normalise(text, language) == given_to_the_model
