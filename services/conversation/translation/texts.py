"""Translates texts of any length piece by piece, and keeps their white space.

A text is planned before the model is called, so that the cost of a request is known beforehand.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Final, TypeAlias, TypeVar

SENTENCE_END: Final = re.compile(
    # Also full-width marks, without a space; and with a closing quotation mark or bracket.
    r"(?<=[.!?\u2026\u061F\u0964])\s+|(?<=[\u3002\uFF01\uFF1F])\s*"
    r"|(?<=[.!?\u2026][\"'\u00BB\u201D\u2019)])\s+"
)

PIECE_CHARACTERS: Final = 800
"""The longest piece: it and its translation fit in a context of 2048 tokens."""

# Where a text is cut, in order of preference: between paragraphs, lines, sentences, clauses, words.
_CUTS: Final = (
    re.compile(r"\n\s*\n"),
    re.compile(r"\n"),
    SENTENCE_END,
    re.compile(r"(?<=[,;:\u060C])\s+|(?<=[\u3001\uFF0C\uFF1B])"),
    re.compile(r"\s+"),
)


def pieces(text: str, most: int = PIECE_CHARACTERS) -> list[str]:
    """Split `text` into pieces of at most `most` characters, without the white space at their ends.

    Joined they are the text again. None is only white space, unless the text is. A text that is
    short enough is one piece, with its line breaks.
    """
    found: list[str] = []
    for part in _parts(text, most, 0):
        if found and not (part.strip() and found[-1].strip()):
            found[-1] += part
        else:
            found.append(part)
    return found


def _parts(text: str, most: int, level: int) -> Iterator[str]:
    """Yield the text in parts of at most `most` characters, without white space at their ends."""
    if len(text.strip()) <= most:
        yield text
        return
    if level == len(_CUTS):
        yield from (text[begin : begin + most] for begin in range(0, len(text), most))
        return
    gathered = ""
    for part in cut(text, _CUTS[level]):
        if gathered and len((gathered + part).strip()) > most:
            yield from _parts(gathered, most, level + 1)
            gathered = ""
        gathered += part
    if gathered:
        yield from _parts(gathered, most, level + 1)


def cut(text: str, places: re.Pattern[str]) -> Iterator[str]:
    """Return the parts of a text, each up to the end of the next match of `places`."""
    ends = [0, *(place.end() for place in places.finditer(text)), len(text)]
    return (text[begin:end] for begin, end in pairwise(ends) if begin < end)


Result = TypeVar("Result")


async def by_workers(jobs: Iterable[Callable[[], Awaitable[Result]]], workers: int) -> list[Result]:
    """Return the result of each job, in order; if one fails, the others are cancelled.

    At most `workers` run at the same time; jobs that wait need no task.
    """
    left = enumerate(jobs)
    results: dict[int, Result] = {}

    async def work() -> None:
        for number, job in left:
            results[number] = await job()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [results[number] for number in range(len(results))]


def has_words(text: str) -> bool:
    """Return whether a text has anything to translate: a letter of any script."""
    return any(character.isalpha() for character in text)


def free_mark(mark: str, texts: Iterable[str]) -> str:
    """Return `mark`, lengthened until no tag in the texts begins with it."""
    whole = "\n".join(texts)
    while f"<{mark}" in whole or f"</{mark}" in whole:
        mark += "x"
    return mark


Translate: TypeAlias = Callable[..., Awaitable[str]]
"""`ChatModel.translate` for two languages: takes a text without white space at its ends."""


@dataclass(frozen=True)
class Work:
    """A part to be translated: `do` calls the model at most so many times."""

    do: Callable[[Translate], Awaitable[str]]
    questions: int = 1


@dataclass(frozen=True)
class Plan:
    """A text, and its parts: those to be kept, and those to be translated."""

    source: str
    parts: Sequence[str | Work]

    @property
    def questions(self) -> int:
        """How often its translation calls the model at most."""
        return sum(part.questions for part in self.parts if isinstance(part, Work))


def planned(text: str) -> Plan:
    """Return the plan of a text: pieces with words are translated, the rest is kept."""
    parts: list[str | Work] = []
    for piece in pieces(text):
        bare = piece.strip()
        if has_words(bare):
            before, _, after = piece.partition(bare)
            parts += [before, _piece(bare), after]
        else:
            parts.append(piece)
    return Plan(text, parts)


def _piece(text: str) -> Work:
    return Work(lambda translate: translate(text))


async def translated(orders: Sequence[tuple[Plan, Translate | None]], workers: int) -> list[str]:
    """Return the translation of each plan, `workers` pieces at the same time.

    With None instead of a translation, a text stays as it is.
    """
    jobs = [
        partial(part.do, translate)
        for plan, translate in orders
        if translate
        for part in plan.parts
        if isinstance(part, Work)
    ]
    said = iter(await by_workers(jobs, workers))
    return [
        "".join(next(said) if isinstance(part, Work) else part for part in plan.parts)
        if translate
        else plan.source
        for plan, translate in orders
    ]
