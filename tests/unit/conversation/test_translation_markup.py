"""HTML: whatever the model says, the markup is unchanged."""

from __future__ import annotations

import html
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.conversation.translation.markup import planned_html, tokens
from services.conversation.translation.texts import (
    PIECE_CHARACTERS,
    pieces,
    planned,
    translated,
)
from tests.translating_app import louder

if TYPE_CHECKING:
    from collections.abc import Callable


class Says:
    """A model with fixed answers; `asked` has the texts that it got."""

    def __init__(self, say: Callable[[str], str] = louder) -> None:
        self.say = say
        self.asked: list[str] = []

    async def translate(self, text: str, *_: Any, tag: str = "", **__: Any) -> str:
        assert text == text.strip()
        assert (not tag) or tag in text
        self.asked.append(text)
        return self.say(text)


async def through(document: str, model: Any = None) -> str:
    translate = (model or Says()).translate
    (said,) = await translated([(planned_html(document), translate)], workers=4)
    return said


def markup(document: str) -> list[str]:
    return [token.source for token in tokens(document) if token.kind != "text"]


@pytest.mark.parametrize(
    ("given_", "expected", "asked"),
    [
        ("<p>Hello you</p>", "<p>HELLO YOU</p>", ["Hello you"]),
        (
            "<p>Hello <b class='x'>you</b> there</p>",
            "<p>HELLO <b class='x'>YOU</b> THERE</p>",
            ["Hello <x1>you</x1> there"],
        ),
        ("<li> <a href=/>Home</a>\n</li>", "<li> <a href=/>HOME</a>\n</li>", ["Home"]),
        ("a<br>b<img src=x>c", "A<br>B<img src=x>C", ["a<x1/>b<x2/>c"]),
        ("<b>a <i>b</i></b> c", "<b>A <i>B</i></b> C", ["<x1>a <x2>b</x2></x1> c"]),
        ("a</b> b", "A</b> B", ["a<x1/> b"]),
        ("Tom &amp; Tim&nbsp;&lt;x1&gt;", "TOM &amp; TIM&nbsp;&lt;x1&gt;", ["Tom & Tim\xa0<x1>"]),
        ("&#169; caf&eacute; &hellip;", "&#169; CAF\u00c9 &hellip;", ["\u00a9 caf\u00e9 \u2026"]),
        ("a <!-- not this --> b", "A <!-- not this --> B", ["a <x1/> b"]),
        ("<script>var a = '<p>no</p>'</script>yes", None, ["yes"]),
        ("<style>p {content: 'no'}</style><title>yes</title>", None, ["yes"]),
        ("<SCRIPT>no</SCRIPT >yes", None, ["yes"]),
        ("<textarea>no <b>no</b></textarea>yes", None, ["yes"]),
        ("<svg><text>no</text></svg>yes", None, ["yes"]),
        (
            "It is <span translate=no>Bento <i>Vox</i></span> here",
            "IT IS <span translate=no>Bento <i>Vox</i></span> HERE",
            ["It is <x1/> here"],
        ),
        ("<div translate='no'>no<div>no</div>no</div>yes", None, ["yes"]),
        ("<p title='a > b' alt=\"no\">yes</p>", None, ["yes"]),
        ("<p data-x='translate=no' translate=y>yes</p>", None, ["yes"]),
        ("<p class=a TRANSLATE = 'no' >no</p>yes", None, ["yes"]),
        ("<!DOCTYPE html><?xml no?><![CDATA[no]]>yes", None, ["yes"]),
        ("yes <a title='never closed>no</a> no", None, ["yes"]),
        ("yes <!-- never closed <p>no</p>", None, ["yes"]),
        ("<p>  12 &ndash; 34 </p>", "<p>  12 &ndash; 34 </p>", []),
        ("", "", []),
    ],
)
async def test_words_change_and_markup_does_not(
    given_: str, expected: str | None, asked: list[str]
) -> None:
    model = Says()
    assert await through(given_, model) == (expected or given_.replace("yes", "YES"))
    assert model.asked == asked


@pytest.mark.parametrize(
    "say",
    [
        lambda text: re.sub(r"<[^>]*>", "", text),  # loses the marks
        lambda text: re.sub(r"(<x1>)", r"\1\1", text),  # repeats one
        lambda text: text.replace("x1", "x9"),  # numbers them anew
        lambda text: "<x1>" + text,
        lambda text: text[-9:] + "</x1><x1>",  # turns them round
    ],
)
async def test_marks_that_do_not_come_back_mean_text_by_text(say: Callable[[str], str]) -> None:
    model = Says(lambda text: louder(say(text)) if "<" in text else text.upper())
    assert await through("<p>Hello <b>dear</b> you</p>", model) == "<p>HELLO <b>DEAR</b> YOU</p>"
    assert model.asked == ["Hello <x1>dear</x1> you", "Hello", "dear", "you"]


async def test_what_is_too_long_for_one_question_goes_text_by_text() -> None:
    document = "<p>" + "Some words <b>are</b> here. " * 60 + "</p>"
    model = Says()
    assert markup(await through(document, model)) == markup(document)
    assert max(map(len, model.asked)) <= PIECE_CHARACTERS


async def test_a_text_in_the_target_language_is_left_alone() -> None:
    document = "<p>Gr\u00fc&szlig;e</p>"
    orders = [(planned_html(document), None), (planned("Hallo"), None)]
    assert await translated(orders, workers=4) == [document, "Hallo"]


PARTS = [
    "<p>", "</p>", "<b>", "</b>", "<i class='a>b'>", "</i>", "<br/>", '<img alt="x">',
    "<!-- c -->", "<!--", "-->", "<script>", "</script>", "<span translate=no>", "</span>",
    "<a href='", "'>", "</a>", "&amp;", "&lt;b&gt;", "&", "<", ">", '"', "'", " ", "\n",
    "word", "Wort und Wort.", "7", "x1", "<x1>", "</x1>", "=", "/",
]  # fmt: skip
documents = st.lists(st.sampled_from(PARTS) | st.text(max_size=5), max_size=25).map("".join)
answers = st.sampled_from(
    [
        louder,
        lambda text: text,
        lambda text: re.sub(r"<[^>]*>", "", text) or "x",
        lambda text: text + "<script>alert(1)</script>",
        lambda text: f"<b>{text}</b> & <!-- ",
        lambda text: text[::-1],
        lambda text: "<x1>" * 3 + text,
    ]
)


@settings(max_examples=400, deadline=None)
@given(document=documents)
def test_the_slices_are_the_document(document: str) -> None:
    found = [*tokens(document)]
    assert "".join(token.source for token in found) == document
    assert all(token.source for token in found)
    for token in found:
        if token.kind == "text":
            assert not re.search(r"<[a-zA-Z!?/]", token.source)


@settings(max_examples=400, deadline=None)
@given(document=documents, say=answers)
async def test_markup_stays_whatever_the_model_says(
    document: str, say: Callable[[str], str]
) -> None:
    assert markup(await through(document, Says(say))) == markup(document)


@settings(max_examples=200, deadline=None)
@given(document=documents)
async def test_a_model_that_repeats_changes_no_text(document: str) -> None:
    said = await through(document, Says(lambda text: text))
    texts = [
        ["".join(html.unescape(t.source)) for t in tokens(one) if t.kind == "text"]
        for one in (document, said)
    ]
    assert "".join(texts[0]) == "".join(texts[1])


@pytest.mark.parametrize(
    "document",
    [
        '<a"' * 5000, "<!--" * 5000, "<b>" * 5000 + "x", "</" * 5000, "<a title='" * 5000,
        "<i translate=no>" * 2000, "<p " + "a=' " * 5000, "&" * 10_000, "<script>" * 3000,
        "<b><i>" * 1500 + "x" + "</i></b>" * 1500, "< " * 5000, " \n" * 5000 + "x",
    ],
)  # fmt: skip
async def test_no_document_takes_long(document: str) -> None:
    began = time.perf_counter()
    assert markup(await through(document)) == markup(document)
    assert time.perf_counter() - began < 2


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(st.sampled_from("ab .!?\n\u3002\t\u2026\"'"), max_size=200),
    most=st.integers(1, 40),
)
def test_pieces_and_the_space_between_are_the_text(text: str, most: int) -> None:
    found = pieces(text, most)
    assert "".join(found) == text
    assert all(0 < len(piece.strip()) <= most for piece in found) or not text.strip()


def test_a_text_is_cut_where_it_hurts_least() -> None:
    text = "One. Two. Three.\n\nFour five six seven. Eight."
    found = pieces(text, 24)
    assert [piece.strip() for piece in found] == [
        "One. Two. Three.",
        "Four five six seven.",
        "Eight.",
    ]
