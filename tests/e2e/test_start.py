"""A start runs no unnecessary processes, and ends when told to, ready or not."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.e2e.server import Server, eventually

if TYPE_CHECKING:
    from pathlib import Path

LOOKING = "vllm.model_executor.models.registry"


def test_first_start_on_the_cpu_has_no_process_that_only_looks_at_the_model(
    home: Path, tmp_path: Path
) -> None:
    lines: set[str] = set()

    def engine_loads() -> bool:
        for process in server.processes():
            with contextlib.suppress(psutil.Error):
                lines.add(" ".join(process.cmdline()))
        return "Loading safetensors" in server.log.read_text(errors="replace")

    server = Server(home, "services.chat.service:Chat", VLLM_CACHE_ROOT=str(tmp_path))
    try:
        eventually(engine_loads, 90, "the engine loads")
        assert server.engine().is_running()
        assert not {line for line in lines if LOOKING in line}
        assert list(tmp_path.glob("modelinfos/*.json")), "it was looked at for the first time"
    finally:
        server.end()


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
