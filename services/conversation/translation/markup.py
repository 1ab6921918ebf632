"""Translation of HTML: texts change, markup does not.

A run of text (a paragraph, a heading, a cell) is translated as a whole, with numbered marks for its
inline tags. If the marks do not come back in the same order and number, each text between two tags
is translated alone. So the markup never changes, whatever the model answers.

Only what decides where text begins and ends is parsed. The slices, joined, are the document again,
however broken it is (HTML, section 13.2.5, gives every sequence a meaning).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Final, Literal, TypeAlias

from services.conversation.translation.texts import (
    PIECE_CHARACTERS,
    Plan,
    Translate,
    Work,
    free_mark,
    has_words,
    planned,
    translated,
)

Kind: TypeAlias = Literal["text", "open", "close", "alone"]
"""Of a slice; what is alone is an image, a comment, an element that is not translated."""


@dataclass(frozen=True)
class Token:
    """A slice of the document; `name` is the tag's in lower case, or empty."""

    kind: Kind
    source: str
    name: str = ""


_MARKUP: Final = re.compile(
    r"<!--(?:-?>|.*?(?:--!?>|\Z))"  # an unclosed comment goes to the end
    r"|<[!?][^>]*>|</(?![a-zA-Z])[^>]*>"
    r"|<(?P<close>/?)(?P<name>[a-zA-Z][^\s/>]*+)"
    # A quote opens a value only after `=`; with an unclosed one it is no tag.
    r"(?P<attributes>(?:[^>=]|=\s*+(?:\"[^\"]*\"|'[^']*'|(?![\"'])))*+)>"
    r"|<[!?/a-zA-Z].*",  # and so does a tag
    re.DOTALL,
)
_ATTRIBUTE: Final = re.compile(
    r"(?P<name>[^\s\"'/=]++)(?:\s*+=\s*+(?P<value>\"[^\"]*\"|'[^']*'|[^\s]*+))?+"
)
_VOID: Final = frozenset(
    "area base br col embed hr img input link meta param source track wbr".split()  # noqa: SIM905
)
_RAW: Final = frozenset(
    "iframe noembed noframes noscript script style textarea xmp".split()  # noqa: SIM905
)
"""Elements that contain no markup (HTML, section 13.1.2); they are not translated."""
_LEFT_ALONE: Final = _RAW | {"math", "object", "svg", "template"}
# fmt: off
_INLINE: Final = frozenset({
    "a", "abbr", "acronym", "b", "bdi", "bdo", "big", "br", "cite", "code", "data", "del", "dfn",
    "em", "font", "i", "img", "ins", "kbd", "label", "mark", "nobr", "output", "q", "rp", "rt",
    "ruby", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "time", "tt", "u",
    "var", "wbr",
})
# fmt: on
_REFERENCE: Final = re.compile(r"&(?:#\d+|#[xX][0-9a-fA-F]+|[a-zA-Z][a-zA-Z0-9]*);")
_MOST_MARKS: Final = 40  # with more, models lose the order


def tokens(document: str) -> Iterator[Token]:
    """Yield the slices of a document; an element that is not translated is one slice."""
    place = 0
    while match := _MARKUP.search(document, place):
        if match.start() > place:
            yield Token("text", document[place : match.start()])
        token, place = _token(match), match.end()
        if token.kind == "open" and _is_left_alone(token.name, match["attributes"]):
            place = _end(document, match, token.name)
            token = Token("alone", document[match.start() : place], token.name)
        yield token
    if place < len(document):
        yield Token("text", document[place:])


def _token(match: re.Match[str]) -> Token:
    name = (match["name"] or "").lower()
    if not name:
        return Token("alone", match[0])
    if match["close"]:
        return Token("close", match[0], name)
    if name in _VOID or match["attributes"].endswith("/"):
        return Token("alone", match[0], name)
    return Token("open", match[0], name)


def _is_left_alone(name: str, attributes: str) -> bool:
    return name in _LEFT_ALONE or any(
        one["name"].lower() == "translate" and (one["value"] or "").strip("\"'").lower() == "no"
        for one in _ATTRIBUTE.finditer(attributes)
    )


def _end(document: str, opening: re.Match[str], name: str) -> int:
    """Return where the element that `opening` begins ends; the document's end if unclosed."""
    if name in _RAW:  # no markup inside: the first closing tag is its end
        ending = re.compile(rf"</{re.escape(name)}(?=[\s/>])[^>]*>", re.IGNORECASE)
        closing = ending.search(document, opening.end())
        return closing.end() if closing else len(document)
    depth = 1
    for match in _MARKUP.finditer(document, opening.end()):
        token = _token(match)
        if token.name == name:
            depth += {"open": 1, "close": -1}.get(token.kind, 0)
            if not depth:
                return match.end()
    return len(document)


def planned_html(document: str) -> Plan:
    """Return the plan of a document: its texts are translated, its markup is kept."""
    runs = groupby(tokens(document), key=_is_inline)
    return Plan(document, [_planned([*run]) for _, run in runs])


def _is_inline(token: Token) -> bool:
    return token.kind == "text" or token.name in _INLINE or token.source.startswith("<!--")


def _planned(run: list[Token]) -> str | Work:
    before, inner, after = _without_ends(run)
    texts = [
        token.source
        for token in inner
        if token.kind == "text" and has_words(html.unescape(token.source))
    ]
    if not texts:
        return _joined(run)
    # Two consecutive pieces are together longer than one piece may be.
    pieces_at_most = sum(1 + len(text) // (PIECE_CHARACTERS // 2) for text in texts)
    return Work(partial(_run, before, inner, after), pieces_at_most + (len(inner) > 1))


async def _run(
    before: list[Token], inner: list[Token], after: list[Token], translate: Translate
) -> str:
    """Return a run, translated as a whole if possible, else text by text."""
    spelling = _spelling((*before, *inner, *after))
    whole = await _as_one(translate, inner, spelling) if len(inner) > 1 else None
    if whole is None:
        whole = "".join([await _alone(translate, token, spelling) for token in inner])
    return _joined(before) + whole + _joined(after)


def _without_ends(run: list[Token]) -> tuple[list[Token], list[Token], list[Token]]:
    """Split a run into what is before the words, the words, and what is after them.

    A tag at either end stays with the words if its partner is among them.
    """
    begin, end = 0, len(run)
    partners = _partners(run)
    while begin < end:
        first, last = run[begin], run[end - 1]
        if _is_nothing(first) or (first.kind != "text" and begin not in partners):
            begin += 1
        elif _is_nothing(last) or (last.kind != "text" and end - 1 not in partners):
            end -= 1
        elif partners.get(begin) == end - 1:
            begin, end = begin + 1, end - 1
        else:
            break
    return run[:begin], run[begin:end], run[end:]


def _is_nothing(token: Token) -> bool:
    return token.kind == "text" and not token.source.strip()


def _partners(run: Sequence[Token]) -> dict[int, int]:
    """Return the index of the opening tag for that of each closing tag, and vice versa."""
    found: dict[int, int] = {}
    open_: list[int] = []
    for place, token in enumerate(run):
        if token.kind == "open":
            open_.append(place)
        elif token.kind == "close" and open_ and run[open_[-1]].name == token.name:
            found[place] = open_.pop()
            found[found[place]] = place
    return found


async def _as_one(
    translate: Translate, inner: Sequence[Token], spelling: Mapping[int, str]
) -> str | None:
    """Return the texts, translated together with their marks; None if marks were changed."""
    texts = [html.unescape(token.source) for token in inner if token.kind == "text"]
    prefix = free_mark("x", texts)
    marks = _marks(inner, prefix)
    waiting = iter(texts)
    text = "".join(marks.get(place) or next(waiting) for place in range(len(inner)))
    bare = text.strip()
    if len(marks) > _MOST_MARKS or len(bare) > PIECE_CHARACTERS:
        return None
    order = [*marks.values()]
    said = text.replace(bare, await translate(bare, tag=order[0]), 1)
    found = re.split(rf"(</?{prefix}\d+/?>)", said)
    if found[1::2] != order:
        return None
    found[::2] = [part.translate(spelling) for part in found[::2]]
    found[1::2] = [inner[place].source for place in marks]
    return "".join(found)


async def _alone(translate: Translate, token: Token, spelling: Mapping[int, str]) -> str:
    if token.kind != "text":
        return token.source
    text = html.unescape(token.source)
    if not has_words(text):
        return token.source
    (said,) = await translated([(planned(text), translate)], workers=1)
    return said.translate(spelling)


def _marks(inner: Sequence[Token], prefix: str) -> dict[int, str]:
    """Return the mark of each tag by its index; an opening and its closing tag share a number."""
    partners = _partners(inner)
    numbers: dict[int, int] = {}
    marks = {}
    for place, token in enumerate(inner):
        if token.kind == "text":
            continue
        partner = partners.get(place)
        if partner is not None and partner < place:
            marks[place] = f"</{prefix}{numbers[partner]}>"
        else:
            numbers[place] = len(numbers) + 1
            marks[place] = f"<{prefix}{numbers[place]}{'/' if partner is None else ''}>"
    return marks


def _spelling(run: Sequence[Token]) -> dict[int, str]:
    """Return the reference of each character that the source writes as one, such as `&nbsp;`."""
    found = {ord("&"): "&amp;", ord("<"): "&lt;"}
    for token in run:
        if token.kind == "text":
            for reference in _REFERENCE.findall(token.source):
                read = html.unescape(reference)
                if len(read) == 1 and not read.isalnum():
                    found[ord(read)] = reference
    return found


def _joined(run: Sequence[Token]) -> str:
    return "".join(token.source for token in run)
