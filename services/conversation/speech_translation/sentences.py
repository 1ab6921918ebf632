"""The second stage: segments to sentences."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from services.conversation.speech_translation.segments import Sentence
from services.conversation.translation.cutting import SENTENCE_END, pieces

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from services.conversation.speech_translation.segments import Segment

PAUSE_S: Final = 0.8
"""A silence that ends a sentence, whatever stands before it."""

MOST_CHARACTERS: Final = 300
"""A sentence that goes on for longer is cut, so that nobody waits for its end."""

_ENDS: Final = tuple(".!?\u2026\u061f\u0964\u3002\uff01\uff1f")
_CLOSING: Final = "\"'\u00bb\u201d\u2019)"


async def into_sentences(segments: AsyncIterator[Segment]) -> AsyncGenerator[Sentence, None]:
    """Yield the sentences that segments come to, each as soon as its end is known.

    A sentence ends at its mark, at a pause, where the language changes, and at a length. Where
    several share a segment, its time is parted by their characters.
    """
    number = 0
    open_: Segment | None = None
    async for segment in segments:
        if not segment.text.strip():
            continue
        if open_ is not None and not _goes_on(open_, segment):
            yield _sentence(number, open_)
            number, open_ = number + 1, None
        joined = segment if open_ is None else _joined(open_, segment)
        *whole, last = _parts(joined)
        for part in whole:
            yield _sentence(number, part)
            number += 1
        open_ = last
        if _is_whole(last):
            yield _sentence(number, last)
            number, open_ = number + 1, None
    if open_ is not None:
        yield _sentence(number, open_)


def _goes_on(before: Segment, segment: Segment) -> bool:
    return segment.start_s - before.end_s < PAUSE_S and segment.language == before.language


def _joined(before: Segment, segment: Segment) -> Segment:
    return replace(before, end_s=segment.end_s, text=before.text + segment.text)


def _is_whole(part: Segment) -> bool:
    return part.text.rstrip().rstrip(_CLOSING).endswith(_ENDS)


def _parts(joined: Segment) -> Iterator[Segment]:
    """Yield the sentences of a text; whether the last is one, nobody knows yet."""
    text = joined.text
    bounds = [match.end() for match in SENTENCE_END.finditer(text)]
    cuts = [0, *(bound for bound in bounds if text[bound:].strip()), len(text)]
    length_s = (joined.end_s - joined.start_s) / len(text)
    for begin, end in pairwise(cuts):
        for piece_begin, piece in _short(text[begin:end], begin):
            start_s = joined.start_s + piece_begin * length_s
            yield replace(
                joined, start_s=start_s, end_s=start_s + len(piece) * length_s, text=piece
            )


def _short(text: str, begin: int) -> Iterator[tuple[int, str]]:
    """Yield a sentence in pieces that are no longer than is bearable, with where each begins."""
    found, space = pieces(text, MOST_CHARACTERS)
    for index, piece in enumerate(found):
        words = piece.space + piece.text + (space if index == len(found) - 1 else "")
        yield begin, words
        begin += len(words)


def _sentence(number: int, part: Segment) -> Sentence:
    return Sentence(
        number, round(part.start_s, 2), round(part.end_s, 2), part.text.strip(), part.language
    )
