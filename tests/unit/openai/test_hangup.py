"""Work that ends when its client has gone: whose cancellation is whose."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from services.openai.body import ClientGoneError, until_hangup


class Client:
    """A client that may hang up."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}


class Work:
    """Work that never ends by itself, and takes a moment to end when it is cancelled."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ended = False

    async def do(self) -> None:
        self.begun.set()
        try:
            await asyncio.Future()
        finally:
            await asyncio.sleep(0)
            self.ended = True


async def test_the_result_is_returned_while_the_client_is_there() -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 7

    assert await until_hangup(Client().receive, answer()) == 7
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_hang_up_cancels_the_work_and_waits_for_its_end() -> None:
    client, work = Client(), Work()
    waiting = asyncio.ensure_future(until_hangup(client.receive, work.do()))
    await work.begun.wait()
    client.gone.set()
    with pytest.raises(ClientGoneError):
        await waiting
    assert work.ended
    assert waiting.cancelling() == 0


async def test_who_is_cancelled_from_outside_is_cancelled_even_if_the_client_goes_too() -> None:
    client, work = Client(), Work()
    waiting = asyncio.ensure_future(until_hangup(client.receive, work.do()))
    await work.begun.wait()
    client.gone.set()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert work.ended


async def test_a_deadline_around_it_passes_as_usual() -> None:
    work = Work()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await until_hangup(Client().receive, work.do())
    assert work.ended


async def test_work_that_ends_in_spite_of_a_hang_up_leaves_no_cancellation_behind() -> None:
    client, work = Client(), Work()

    async def stubborn() -> str:
        try:
            await work.do()
        except asyncio.CancelledError:
            return "done"
        return "never"

    waiting = asyncio.ensure_future(until_hangup(client.receive, stubborn()))
    await work.begun.wait()
    client.gone.set()
    assert await waiting == "done"
    assert waiting.cancelling() == 0


@pytest.mark.parametrize("turns", range(6))
async def test_a_hang_up_just_as_the_work_ends_cancels_nothing_after_it(turns: int) -> None:
    client = Client()
    client.gone.set()

    async def work() -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    with suppress(ClientGoneError):
        await until_hangup(client.receive, work())
    for _ in range(4):
        await asyncio.sleep(0)  # raises if it was cancelled
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_client_that_cannot_be_read_from_has_gone() -> None:
    async def broken() -> dict[str, Any]:
        raise OSError

    work = Work()
    with pytest.raises(ClientGoneError):
        await until_hangup(broken, work.do())
    assert work.ended
