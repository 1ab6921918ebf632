"""A text as segments that upstream's models speak well, in tokens: no scrap alone, none too long.

Sizes are near upstream's own (`split_paragraph`: sentences gathered up to 80 tokens, a rest below
20 not alone), counted in the family's tokens or in CJK characters, whichever is more, plus one for
each digit, since it will be spoken as a word.
"""

# ruff: noqa: RUF001 (the punctuation of many scripts)

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Final

from services.speech.engines.cosyvoice.text import (
    Language,
    Lexicon,
    cleaned,
    guess_language,
    is_sayable,
    normalise,
    with_mark,
)
from services.speech.engines.segments import Segmenter

if TYPE_CHECKING:
    from services.speech.engines.cosyvoice.checkpoint import Checkpoint

LONGEST: Final = 100
"""The largest size of a segment, before its numbers are put in words."""

_FULL: Final = 80  # what sentences are gathered up to, and a longer one is divided at
_SCRAP: Final = 8  # a few words: below that, never alone if there is more to come
_REST: Final = 20  # a last segment below that goes with the one before
# What the first segments of a whole text are gathered up to, so that the first audio comes early
# and the second is ready when the first has been heard; the last applies from the third on.
_ENOUGH: Final = (_SCRAP, 30, 60)
_FIRST: Final = 40  # a longer first sentence is divided at a comma
_CHARACTERS: Final = 320  # text without an end is cut there, whatever its size

_CJK: Final = re.compile(
    "[\u3041-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff]"
)
_CJK_EDGE: Final = re.compile(
    "[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uff65\U00020000-\U0003ffff]"
)
_CLAUSE_END: Final = re.compile(r"(?<=[,;:،—–])\s|(?<=[、，；：])")
_SPACE: Final = re.compile(r"\s")
_TAG: Final = re.compile(r"\[[^\[\]\s]{1,20}\]|</?\w{1,10}>")


async def segments_in_tokens(
    checkpoint: Checkpoint,
    text: str | AsyncIterator[str],
    tag: Language | None,
    *,
    marked: bool,
    lexicon: Lexicon | None,
) -> AsyncGenerator[list[int], None]:
    """Yield the tokens of each segment of a whole text, or of one while it is written.

    `tag` is its language, if known. With `marked` each segment carries the family's mark for
    cloning without a transcript.
    """

    def count(part: str) -> int:
        return len(checkpoint.encode(part))

    def tokens(segment: str, context: Language | None) -> list[int]:
        language = tag or guess_language(segment, context)
        said = normalise(lexicon.spelt(segment) if lexicon else segment, language)
        if said and marked:
            said = with_mark(checkpoint.family, said)
        return checkpoint.encode(said) if said else []

    if isinstance(text, str):
        context = tag or await asyncio.to_thread(guess_language, text)
        segments = split(text, count)
        while (segment := await asyncio.to_thread(next, segments, None)) is not None:
            yield await asyncio.to_thread(tokens, segment, context)
        return
    splitter = Splitter(count)
    async for piece in text:
        for segment in splitter.feed(piece):
            yield await asyncio.to_thread(tokens, segment, tag)
    for segment in splitter.finish():
        yield await asyncio.to_thread(tokens, segment, tag)


def split(text: str, count_tokens: Callable[[str], int]) -> Iterator[str]:
    """Yield the segments of a whole text: the first a short one, later ones several sentences.

    None is larger than `LONGEST`, and each has something to say. The first comes before the rest
    of the text is measured.
    """
    splitter = Splitter(count_tokens, _ENOUGH)
    before = ""
    for segment in itertools.chain(splitter.feed(text), splitter.finish()):
        together = _joined(before, segment)
        if before and splitter.size(segment) < _REST and splitter.size(together) <= LONGEST:
            before = together
            continue
        if before:
            yield before
        before = segment
    if before:
        yield before


class Splitter:
    """Segments of a text as it is written, each returned as soon as its sentence is complete.

    They are the same however the text was cut. A sentence of a few words waits for the next one,
    or for `finish`. None is larger than `LONGEST`, and each has something to say.
    """

    def __init__(
        self, count_tokens: Callable[[str], int], enough: tuple[int, ...] = (_SCRAP,)
    ) -> None:
        """Measure with `count_tokens`, the family's tokenizer.

        Sentences, and parts of those that are too long, are put together until they have `enough`
        tokens; its last number is for all later segments, too.
        """
        self._count_tokens = count_tokens
        self._enough = enough
        self._segmenter = Segmenter(_CHARACTERS, shortest=1)  # scraps are gathered here
        self._is_first = True
        self._given = 0
        self._held = ""

    def size(self, text: str) -> int:
        """Return how long a text is, about in tokens."""
        digits = sum(map(str.isdigit, text))
        return max(self._count_tokens(text), len(_CJK.findall(text))) + digits

    def feed(self, text: str) -> Iterator[str]:
        """Take more text; yield the segments that are complete now."""
        return self._gathered(self._segmenter.feed(cleaned(text)))

    def finish(self) -> Iterator[str]:
        """Yield what is left."""
        yield from self._gathered(self._segmenter.finish())
        if self._held:
            yield self._held

    def _gathered(self, sentences: list[str]) -> Iterator[str]:
        for part in itertools.chain.from_iterable(map(self._parts, sentences)):
            if not is_sayable(part):
                continue
            together = _joined(self._held, part)
            most = LONGEST if self.size(self._held) < _REST else _FULL
            if self._held and self.size(together) > most:
                yield self._held
                self._given += 1
                together = part
            self._held = together
            if self.size(together) >= self._enough[min(self._given, len(self._enough) - 1)]:
                yield together
                self._given += 1
                self._held = ""

    def _parts(self, sentence: str) -> Iterator[str]:
        if self._is_first and self.size(sentence) > _FIRST:
            end = self._cut(sentence, _CLAUSE_END, _FIRST)
            if end is not None:
                yield sentence[:end].strip()
                sentence = sentence[end:].strip()
        self._is_first = self._is_first and self.size(sentence) < _SCRAP
        while self.size(sentence) > _FULL:
            end = (
                self._cut(sentence, _CLAUSE_END, _FULL)
                or self._cut(sentence, _SPACE, _FULL)
                or self._anywhere(sentence)
            )
            yield sentence[:end].strip()
            sentence = sentence[end:].strip()
        yield sentence

    def _cut(self, text: str, at: re.Pattern[str], most: int) -> int | None:
        """Return the last cut that leaves at most `most` before it, unless that is a scrap."""
        best = None
        for match in at.finditer(text):
            if match.end() < len(text):
                if self.size(text[: match.end()].strip()) > most:
                    break
                best = match.end()
        if best is None or self.size(text[:best]) < _SCRAP:
            return None
        return best

    def _anywhere(self, text: str) -> int:
        """Return a cut outside of tags that leaves at most `_FULL` before it, at least 1."""
        low, high = 1, len(text)
        while high - low > 1:
            middle = (low + high) // 2
            if self.size(text[:middle]) <= _FULL:
                low = middle
            else:
                high = middle
        for tag in _TAG.finditer(text):
            if 0 < tag.start() < low < tag.end():
                return tag.start()
        return low


def _joined(before: str, after: str) -> str:
    """Return two pieces as one, with the space between them that their scripts want."""
    if not before or not after:
        return before or after
    is_cjk = _CJK_EDGE.match(before[-1]) or _CJK_EDGE.match(after[0])
    return before + after if is_cjk else f"{before} {after}"
