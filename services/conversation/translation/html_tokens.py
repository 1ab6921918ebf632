"""Splits HTML into slices of text and slices of markup.

It parses only what decides where text begins and ends. The slices, joined, are the document again,
however broken it is (HTML, section 13.2.5, gives every sequence a meaning).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator


class Kind(Enum):
    """The kind of a slice."""

    TEXT = "text"
    OPEN = "open"
    CLOSE = "close"
    ALONE = "alone"  # complete: an image, a comment, an element that is not translated


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
    r"(?P<attributes>(?:[^>=]|=\s*+(?:\"[^\"]*\"|'[^']*'|(?![\"'])))*+)>",
    re.DOTALL,
)
_BEGIN: Final = re.compile(r"<(?=[!?/a-zA-Z])")
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
_LEFT_ALONE: Final = frozenset({"math", "object", "svg", "template"})


def tokens(html: str) -> Iterator[Token]:
    """Yield the slices of a document; an element that is not translated is one slice."""
    place = 0
    while place < len(html):
        begin = _BEGIN.search(html, place)
        if begin is None:
            yield Token(Kind.TEXT, html[place:])
            return
        if begin.start() > place:
            yield Token(Kind.TEXT, html[place : begin.start()])
        match = _MARKUP.match(html, begin.start())
        if match is None:  # unclosed: all the rest is markup
            yield Token(Kind.ALONE, html[begin.start() :])
            return
        token = _token(match)
        place = match.end()
        if token.kind is Kind.OPEN and _is_left_alone(token.name, match["attributes"]):
            place = _end(html, match, token.name)
            token = Token(Kind.ALONE, html[match.start() : place], token.name)
        yield token


def _token(match: re.Match[str]) -> Token:
    name = (match["name"] or "").lower()
    if not name:
        return Token(Kind.ALONE, match[0])
    if match["close"]:
        return Token(Kind.CLOSE, match[0], name)
    if name in _VOID or match["attributes"].endswith("/"):
        return Token(Kind.ALONE, match[0], name)
    return Token(Kind.OPEN, match[0], name)


def _is_left_alone(name: str, attributes: str) -> bool:
    return (
        name in _RAW
        or name in _LEFT_ALONE
        or any(
            one["name"].lower() == "translate" and (one["value"] or "").strip("\"'").lower() == "no"
            for one in _ATTRIBUTE.finditer(attributes)
        )
    )


def _end(html: str, opening: re.Match[str], name: str) -> int:
    """Return where the element that `opening` begins ends; the document's end if unclosed."""
    place, depth = opening.end(), 1
    if name in _RAW:  # no markup inside: the first closing tag is its end
        ending = re.compile(rf"</{re.escape(name)}(?=[\s/>])[^>]*>", re.IGNORECASE)
        closing = ending.search(html, place)
        return closing.end() if closing else len(html)
    while depth:
        begin = _BEGIN.search(html, place)
        match = _MARKUP.match(html, begin.start()) if begin else None
        if match is None:
            return len(html)
        place = match.end()
        token = _token(match)
        if token.name == name:
            depth += {Kind.OPEN: 1, Kind.CLOSE: -1}.get(token.kind, 0)
    return place
