"""Whole texts, with their white space, through the model piece by piece."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from services.gateway.translation.cutting import pieces

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from services.gateway.translation.model import Model

Result = TypeVar("Result")


async def together(work: Iterable[Coroutine[None, None, Result]]) -> list[Result]:
    """Return what each comes to, in order; the first that fails ends the others.

    Raises:
        ServiceError: what that one raised.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


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
        at_once: bounds what is asked of the model at the same time.
        variant: see `Model.translate`.
    """

    model: Model
    source: str
    target: str
    at_once: asyncio.Semaphore
    variant: int = 0

    async def piece(self, text: str, tag: str = "") -> str:
        """Return the translation of a bare text that is short enough for the model."""
        if not has_words(text):
            return text
        async with self.at_once:
            return await self.model.translate(
                text, self.source, self.target, tag=tag, variant=self.variant
            )

    async def text(self, text: str) -> str:
        """Return the translation of a text of any length, between the white space of its ends."""
        if self.source == self.target:
            return text
        found, space = pieces(text)
        said = await together(self.piece(one.text) for one in found)
        return "".join(one.space + words for one, words in zip(found, said, strict=True)) + space
