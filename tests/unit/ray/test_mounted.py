"""A role under Ray sees what it sees elsewhere: its own paths, and its clients' hang-ups."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from services.ray.replica import Mounted
from services.server.serving import Readiness


class _Shell:
    """Keeps the scopes that it gets, and answers nobody until the client hangs up."""

    def __init__(self, status: str = "ready") -> None:
        self.app = SimpleNamespace(readiness=lambda: Readiness(status, {"engine": "died"}))
        self.scopes: list[dict[str, Any]] = []
        self.began = asyncio.Event()
        self.saw: list[str] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        del send
        self.scopes.append(scope)
        self.began.set()
        try:
            self.saw.append((await receive())["type"])
        except asyncio.CancelledError:
            self.saw.append("cancelled")
            raise


def mounted(shell: _Shell) -> Mounted:
    return Mounted(shell, "chat")  # type: ignore[arg-type]


def scope(path: str, kind: str = "http") -> dict[str, Any]:
    return {"type": kind, "path": path, "raw_path": path.encode(), "root_path": "/chat"}


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_the_prefix_is_taken_off(kind: str) -> None:
    shell = _Shell()

    async def receive() -> dict[str, Any]:
        return {"type": f"{kind}.disconnect"}

    await mounted(shell)(scope("/chat/v1/chat/completions", kind), receive, None)
    (seen,) = shell.scopes
    assert seen["path"] == "/v1/chat/completions"
    assert seen["raw_path"] == b"/v1/chat/completions"
    assert seen["root_path"] == ""


async def test_a_role_is_not_cut_off_but_told_of_a_hang_up() -> None:
    shell, messages = _Shell(), asyncio.Queue[dict[str, Any]]()
    serving = asyncio.create_task(mounted(shell)(scope("/chat/v1/models"), messages.get, None))
    await shell.began.wait()
    serving.cancel()  # as Ray does
    messages.put_nowait({"type": "http.disconnect"})
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert shell.saw == ["http.disconnect"]


def test_only_a_dead_engine_is_unhealthy() -> None:
    for status in ("ready", "degraded", "starting", "unavailable"):
        mounted(_Shell(status)).check_health()
    with pytest.raises(RuntimeError, match="died"):
        mounted(_Shell("failed")).check_health()
