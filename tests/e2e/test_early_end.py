"""A server that is told to end before it is ready ends."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.e2e.server import Server, eventually

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("moment", ["loading bentovox-demo", "Loading safetensors"])
def test_sigterm_in_the_middle_of_the_start_leaves_nothing_behind(home: Path, moment: str) -> None:
    server = Server(home)
    try:
        eventually(lambda: moment in server.log.read_text(errors="replace"), 90, moment)
        server.processes()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(45)
        eventually(lambda: not server.processes(), 5, f"nothing left:\n{server.tail()}")
    finally:
        server.end()
