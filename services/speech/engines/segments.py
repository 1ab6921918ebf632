"""Text cut into segments at sentence ends, whole or as it streams in, and said one ahead."""

# ruff: noqa: RUF001 (the punctuation of many scripts)

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from services.audio.pcm import Samples
from services.errors import InvalidRequestError, UnavailableError

SEGMENT_CHARACTERS: Final = 200
"""The longest segment; text without any punctuation is cut at a space before it."""

# A sentence ends at closing punctuation before a space, at full-width punctuation, or at a blank
# line. Possessive, and with one character of look-ahead, so that a piece of a stream never ends
# a sentence that the next piece would have ended otherwise.
_SENTENCE_END: Final = re.compile(
    r"[.!?…؟؛۔։]++[\"'”’»)\]]*+(?=\s)|[。！？｡．।॥።]++[」』”’）]*+(?=.)|(?<=\S)(?=\n[ \t]*\n)",
    re.DOTALL,
)
_UNIT_END: Final = re.compile(
    rf"(?P<clause>[,;:](?=\s)|[，；：、،؛])|{_SENTENCE_END.pattern}", re.DOTALL
)
# "Dr. Who", "e.g. this", "J. Doe": too short before the full stop, or a stop inside. "am 13. Mai".
_ABBREVIATION: Final = re.compile(
    r"\b(?:(?:\w\.)*\w|\d\d|Dr|Mr|Mrs|Ms|St|Prof|Nr|vs|etc|approx|bzw|Sra?|Dra|Sig|Dott)\.$",
    re.IGNORECASE,
)
_LONGEST_ABBREVIATION: Final = 8  # "approx."; of longer ones, as "a.b.c.", the end is one too
_CLAUSE_END: Final = re.compile(r"[,;:،、，；：—–]\s|[、，；：]")
# Controls start espeak's embedded commands, private use may be its own symbols, and a lone
# surrogate has no UTF-8.
_UNSPEAKABLE: Final = frozenset({"Cc", "Co", "Cs"})
_SPEAKABLE_SYMBOLS: Final = frozenset({"Sm", "Sc", "So"})


def printable(text: str) -> str:
    """Return `text` with control, private-use and surrogate characters made spaces.

    Newlines are kept, NUL is not. The length does not change.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character == "\n" or unicodedata.category(character) not in _UNSPEAKABLE
        else " "
        for character in text
    )


def is_speakable(text: str) -> bool:
    """Return whether there is a letter, a digit or a symbol such as + or an emoji to say."""
    categories = map(unicodedata.category, text)
    return any(each[0] in "LN" or each in _SPEAKABLE_SYMBOLS for each in categories)


def refuse_blank(text: str | AsyncIterator[str]) -> None:
    """Raise `blank_input` if a whole text has nothing to say; one still being written may."""
    if isinstance(text, str) and not is_speakable(text):
        raise InvalidRequestError(
            "input holds nothing to say: a letter, a digit or a symbol is expected",
            param="input",
            code="blank_input",
        )


@dataclass
class Segmenter:
    """Gives the same segments however the text arrives, stripped; those that say nothing go."""

    longest: int = SEGMENT_CHARACTERS  # of a segment, at least 16
    shortest: int = 12  # a shorter sentence goes with the next one
    clauses: bool = False  # is a clause a segment, too, however short?
    _text: str = ""

    def feed(self, text: str) -> list[str]:
        """Take more text; return the segments that are complete now."""
        self._text = (self._text + printable(text)).lstrip()
        return self._cut(final=False)

    def finish(self) -> list[str]:
        """Return what is left."""
        return self._cut(final=True)

    def _cut(self, *, final: bool) -> list[str]:
        segments = []
        while self._text:
            end = self._end()
            if end is None:
                if not final:
                    break
                end = len(self._text)
            segment, self._text = self._text[:end].strip(), self._text[end:].lstrip()
            if is_speakable(segment):
                segments.append(segment)
        return segments

    def _end(self) -> int | None:
        """Return where the first segment ends; None while more text could change that."""
        text = self._text
        ends = _UNIT_END if self.clauses else _SENTENCE_END
        for match in ends.finditer(text, 0, self.longest + 1):
            end = match.end()
            if match.lastgroup == "clause":
                return end
            if end >= self.shortest and not _ABBREVIATION.search(
                text, max(end - _LONGEST_ABBREVIATION, 0), end
            ):
                return end
        if len(text) <= self.longest:
            return None
        window = text[: self.longest]
        clauses = [match.end() for match in _CLAUSE_END.finditer(window)]
        if clauses and clauses[-1] >= self.longest // 4:
            return clauses[-1]
        space = max(window.rfind(" "), window.rfind("\n"))
        return space if space >= self.longest // 4 else self.longest


async def segments_as_written(
    text: str | AsyncIterator[str], segmenter: Segmenter | None = None
) -> AsyncGenerator[str, None]:
    """Yield the segments of a whole text, or of one while it is written."""
    segmenter = segmenter or Segmenter()
    if isinstance(text, str):
        for segment in segmenter.feed(text):
            yield segment
    else:
        async for piece in text:
            for segment in segmenter.feed(piece):
                yield segment
    for segment in segmenter.finish():
        yield segment


async def one_ahead(
    segments: AsyncGenerator[str, None],
    say: Callable[[str], AsyncGenerator[Samples, None]],
    work: set[asyncio.Task[None]],
) -> AsyncGenerator[Samples, None]:
    """Yield what `say` makes of each segment, while the next one is made already.

    So no gap is heard between two segments, and no more than two wait for a slow listener. Closing
    it stops the work at once, and closes `segments`. `work` has the task that makes the frames, as
    long as it runs; cancelling that ends the speech with UnavailableError, as half a text must not
    pass for a whole one. What `segments` or `say` raises comes after the frames before it.
    """
    made: asyncio.Queue[Samples | None] = asyncio.Queue()  # None: the end of a segment, or of all
    room = asyncio.Semaphore(1)

    async def make() -> None:
        async with aclosing(segments):
            async for segment in segments:
                async with aclosing(say(segment)) as frames:
                    async for frame in frames:
                        made.put_nowait(frame)
                made.put_nowait(None)
                await room.acquire()

    task = asyncio.create_task(make())
    work.add(task)
    task.add_done_callback(work.discard)
    task.add_done_callback(lambda _: made.put_nowait(None))
    try:
        while not (task.done() and made.empty()):
            frame = await made.get()
            if frame is None:
                room.release()
            else:
                yield frame
        if task.cancelled():
            raise UnavailableError("the engine was closed", retry_after_s=1.0)
        task.result()
    finally:
        task.cancel()
        await asyncio.wait([task])
