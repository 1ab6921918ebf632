"""What passes between the stages of a speech translation, and how they run at the same time."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from services.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping

    from services.audio.pcm import Samples


@dataclass(frozen=True)
class Segment:
    """A stretch of speech as it was heard; times in seconds of the recording.

    Attributes:
        start_s: where it begins.
        end_s: where it ends.
        text: what was said; segments joined as they are give the whole text.
        language: code of its language; None where the ear does not tell.
        clear: whether the ear is sure of it.
    """

    start_s: float
    end_s: float
    text: str
    language: str | None = None
    clear: bool = True


@dataclass(frozen=True)
class Sentence:
    """What is translated and spoken at once; `number` counts from 0."""

    number: int
    start_s: float
    end_s: float
    text: str
    language: str | None = None


@dataclass(frozen=True)
class Translation:
    """A sentence in the other language."""

    sentence: Sentence
    text: str


@dataclass(frozen=True)
class Sound:
    """A piece of the sentence's translation, spoken: float32 [N] at `OUTPUT_RATE_HZ`."""

    sentence: Sentence
    samples: Samples


Item: TypeAlias = Sentence | Translation | Sound
"""What reaches the end, in order: each sentence, then its translation, then its sound."""


@dataclass
class Tally:
    """What was heard for one request, for its `usage`."""

    input_tokens: int = 0


Staged = TypeVar("Staged")


def piped(
    group: asyncio.TaskGroup, stage: AsyncGenerator[Staged, None], held: int
) -> AsyncGenerator[Staged, None]:
    """Run a stage as a task of `group`, and return what it yields.

    It is at most `held` items ahead of whoever takes them. What it raises ends the group, and so
    every other stage; ending the group closes the stage.
    """
    queue: asyncio.Queue[tuple[Staged] | None] = asyncio.Queue(held)

    async def run() -> None:
        async with aclosing(stage) as items:
            async for item in items:
                await queue.put((item,))
        await queue.put(None)

    async def taken() -> AsyncGenerator[Staged, None]:
        while (one := await queue.get()) is not None:
            yield one[0]

    group.create_task(run())
    return taken()


def first_fault(group: ExceptionGroup[Exception]) -> Exception:
    """Return what the stages failed of: the first `ServiceError`, or else the first of all."""
    faults = [
        first_fault(one) if isinstance(one, ExceptionGroup) else one for one in group.exceptions
    ]
    return next((one for one in faults if isinstance(one, ServiceError)), faults[0])


@contextmanager
def fields_named(names: Mapping[str, str | None]) -> Iterator[None]:
    """Have a backend's refusal name the client's fields: `names` has ours for the backend's."""
    try:
        yield
    except ServiceError as error:
        if error.param is not None and error.param in names:
            error.param = names[error.param]
        raise
