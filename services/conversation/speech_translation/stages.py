"""What the stages of a speech translation pass on, and how they run concurrently."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from services.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping

    from services.audio.pcm import Samples


@dataclass(frozen=True)
class Segment:
    """A stretch of transcribed speech; the segments' texts, joined, are the whole transcript.

    `language` is None if the transcription does not tell, and `clear` if it is certain of the text.
    """

    start_s: float
    end_s: float
    text: str
    language: str | None = None
    clear: bool = True


@dataclass(frozen=True)
class Sentence:
    """The unit that is translated and spoken; `number` counts from 0."""

    number: int
    start_s: float
    end_s: float
    text: str
    language: str | None = None


@dataclass(frozen=True)
class Translation:
    """A sentence's translation, and the code of its language."""

    sentence: Sentence
    text: str
    language: str


@dataclass(frozen=True)
class Sound:
    """Audio of a part of a sentence's translation: float32 [N] at `OUTPUT_RATE_HZ`."""

    sentence: Sentence
    samples: Samples


Item: TypeAlias = Sentence | Translation | Sound
"""What the last stage gets: each sentence, then its translation, then its audio."""

Sparing: TypeAlias = Callable[[], AbstractAsyncContextManager[object]]
"""Makes the context in which a stage works on one sentence; it may swallow a `ServiceError`."""


AHEAD: Final = 2
"""How many sentences a stage may be ahead of the next."""

SOUNDS_AHEAD: Final = 16
"""The same for pieces of sound, each of at most `connection.HELD_BYTES`."""

Staged = TypeVar("Staged")


def piped(
    group: asyncio.TaskGroup, stage: AsyncGenerator[Staged, None], held: int
) -> AsyncGenerator[Staged, None]:
    """Run a stage as a task of `group`, and return an iterator of what it yields.

    It is at most `held` items ahead of the next stage. If it raises, the group and so all stages
    are cancelled; if the group is cancelled, the stage is closed.
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
    """Return why the stages failed: the first `ServiceError`, or else the first exception."""
    faults = [
        first_fault(one) if isinstance(one, ExceptionGroup) else one for one in group.exceptions
    ]
    return next((one for one in faults if isinstance(one, ServiceError)), faults[0])


@contextmanager
def fields_named(names: Mapping[str, str | None]) -> Iterator[None]:
    """Rename the field in a backend's refusal: `names` has the client's for the backend's."""
    try:
        yield
    except ServiceError as error:
        if error.param is not None and error.param in names:
            error.param = names[error.param]
        raise
