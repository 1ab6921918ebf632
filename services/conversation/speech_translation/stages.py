"""Stages at work at the same time, with bounded queues between them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, TypeVar

from services.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping

Item = TypeVar("Item")


def piped(
    group: asyncio.TaskGroup, stage: AsyncGenerator[Item, None], held: int
) -> AsyncGenerator[Item, None]:
    """Run a stage as a task of `group`, and return what it yields.

    It is at most `held` items ahead of whoever takes them. What it raises ends the group, and so
    every other stage; ending the group closes the stage.
    """
    queue: asyncio.Queue[tuple[Item] | None] = asyncio.Queue(held)

    async def run() -> None:
        async with aclosing(stage) as items:
            async for item in items:
                await queue.put((item,))
        await queue.put(None)

    async def taken() -> AsyncGenerator[Item, None]:
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
