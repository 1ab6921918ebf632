from __future__ import annotations

import asyncio
from typing import Any

from services.server.writer import MOST_BYTES, Gathering


class Bare:
    """A transport that keeps what each system call would have sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.sent.append(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed


def gathering() -> tuple[Any, Bare]:
    bare: Any = Bare()
    return Gathering(bare, asyncio.get_running_loop()), bare


async def test_what_is_written_in_one_turn_is_sent_in_one_go_at_its_end() -> None:
    transport, bare = gathering()
    for turn in range(1, 3):
        transport.write(b"head, ")
        transport.write(b"first event")
        assert len(bare.sent) == turn - 1
        await asyncio.sleep(0)
        assert bare.sent == [b"head, first event"] * turn


async def test_much_is_sent_at_once_so_that_the_writer_can_be_paused() -> None:
    transport, bare = gathering()
    transport.write(b"before ")
    transport.write(bytes(MOST_BYTES))
    assert bare.sent == [b"before " + bytes(MOST_BYTES)]
    transport.write(b"after")
    await asyncio.sleep(0)
    assert bare.sent[1:] == [b"after"]


async def test_closing_sends_what_was_written_before() -> None:
    transport, bare = gathering()
    transport.write(b"refused")
    transport.close()
    assert (bare.sent, bare.closed) == ([b"refused"], True)
    await asyncio.sleep(0)
    assert bare.sent == [b"refused"]


async def test_nothing_is_sent_once_the_connection_is_gone() -> None:
    transport, bare = gathering()
    transport.write(b"event")
    bare.abort()
    await asyncio.sleep(0)
    transport.write(b"event")
    await asyncio.sleep(0)
    assert bare.sent == []
