"""Whole texts, with their white space, through the model piece by piece.

A text is planned before anything is asked: so what a request costs is known before its work begins.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from services.conversation.translation.cutting import pieces

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from services.conversation.translation.chat_model import ChatModel

Result = TypeVar("Result")


async def by_workers(jobs: Iterable[Callable[[], Awaitable[Result]]], workers: int) -> list[Result]:
    """Return what each job comes to, in order; the first that fails ends the others.

    So many are at work at the same time, and none of the others is more than a function.

    Raises:
        ServiceError: what that one raised.
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
    """Return whether there is anything in a text to translate: a letter of any script."""
    return any(character.isalpha() for character in text)


@dataclass(frozen=True)
class Translator:
    """Translates texts from one language to another.

    Attributes:
        model: what translates.
        source: the code of the texts' language.
        target: the code of the other.
        variant: see `Model.translate`.
    """

    model: ChatModel
    source: str
    target: str
    variant: int = 0

    async def piece(self, text: str, tag: str = "") -> str:
        """Return the translation of a bare text that is short enough for the model."""
        return await self.model.translate(
            text, self.source, self.target, tag=tag, variant=self.variant
        )


@dataclass(frozen=True)
class Work:
    """A part of a text that is to be translated.

    Attributes:
        do: does it.
        questions: how many it asks of the model, at most.
    """

    do: Callable[[Translator], Awaitable[str]]
    questions: int = 1


@dataclass(frozen=True)
class Plan:
    """A text, and the parts that give its translation: as they are, or to be translated."""

    source: str
    parts: Sequence[str | Work]

    @property
    def questions(self) -> int:
        """How many its translation asks of the model, at most."""
        return sum(part.questions for part in self.parts if isinstance(part, Work))


def planned(text: str) -> Plan:
    """Return the plan of a text of any length, between the white space of its ends."""
    found, space = pieces(text)
    parts: list[str | Work] = []
    for one in found:
        parts.append(one.space)
        parts.append(Work(partial(_asked, one.text)) if has_words(one.text) else one.text)
    return Plan(text, [*parts, space])


async def _asked(text: str, translator: Translator) -> str:
    return await translator.piece(text)


async def translated(orders: Sequence[tuple[Plan, Translator]], workers: int) -> list[str]:
    """Return what each plan comes to with its translator, by `workers` at the same time.

    What is in the target language already stays as it is.

    Raises:
        ServiceError: the model could not be asked, or came to no end.
    """
    parts = [
        [plan.source] if translator.source == translator.target else [*plan.parts]
        for plan, translator in orders
    ]
    places = [
        (row, column, partial(part.do, translator))
        for row, (_, translator) in enumerate(orders)
        for column, part in enumerate(parts[row])
        if isinstance(part, Work)
    ]
    said = await by_workers((job for _, _, job in places), workers)
    for (row, column, _), words in zip(places, said, strict=True):
        parts[row][column] = words
    return ["".join(map(str, row)) for row in parts]
