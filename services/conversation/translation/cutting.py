"""Text in pieces that a model translates at once, and the white space between them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

SENTENCE_END: Final = re.compile(
    # Also in full width, where no space follows; and with a closing quotation mark or bracket.
    r"(?<=[.!?\u2026\u061F\u0964])\s+|(?<=[\u3002\uFF01\uFF1F])\s*"
    r"|(?<=[.!?\u2026][\"'\u00BB\u201D\u2019)])\s+"
)

PIECE_CHARACTERS: Final = 800
"""The longest piece: a context of 2048 tokens holds it and its translation."""

# Where a text is cut, the best place first: between paragraphs, lines, sentences, words.
_CUTS: Final = (
    re.compile(r"\n\s*\n"),
    re.compile(r"\n"),
    SENTENCE_END,
    re.compile(r"\s+"),
)


@dataclass(frozen=True)
class Piece:
    """What stands before the text, white space only, and the text without any at its ends."""

    space: str
    text: str


def pieces(text: str, most: int = PIECE_CHARACTERS) -> tuple[list[Piece], str]:
    """Return the pieces of `text`, of at most `most` characters, and the white space at its end.

    Joined as they are, with that, they give the text again. A text that is short enough is one
    piece, line breaks and all.
    """
    found: list[Piece] = []
    space = ""
    for part in _parts(text, most, 0):
        bare = part.strip()
        if not bare:
            space += part
            continue
        begin = part.index(bare)
        found.append(Piece(space + part[:begin], bare))
        space = part[begin + len(bare) :]
    return found, space


def _parts(text: str, most: int, level: int) -> Iterator[str]:
    """Yield the text in parts of at most `most` characters, beside white space at their ends."""
    if len(text.strip()) <= most:
        yield text
        return
    if level == len(_CUTS):
        yield from (text[begin : begin + most] for begin in range(0, len(text), most))
        return
    gathered = ""
    for part in _cut(text, _CUTS[level]):
        if gathered and len((gathered + part).strip()) > most:
            yield from _parts(gathered, most, level + 1)
            gathered = ""
        gathered += part
    if gathered:
        yield from _parts(gathered, most, level + 1)


def _cut(text: str, places: re.Pattern[str]) -> Iterator[str]:
    begin = 0
    for place in places.finditer(text):
        if place.end() > begin:
            yield text[begin : place.end()]
            begin = place.end()
    if begin < len(text):
        yield text[begin:]
