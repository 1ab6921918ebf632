from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from services.errors import (
    ConfigurationError,
    EngineError,
    UnavailableError,
)
from services.speech.engines.vllm_omni.engine import VllmOmniEngine
from tests.vllm_omni import (
    COMMAND,
    STAND_IN,
    StandIn,
    alive,
    asked,
    heard,
    hurried,
    reference,
    spoken,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    hurried(monkeypatch)


@asynccontextmanager
async def supervised(*args: str, **options: Any) -> AsyncIterator[tuple[VllmOmniEngine, StandIn]]:
    engine = VllmOmniEngine(command=COMMAND, model="m", args=args, **options)
    await engine.start()
    try:
        yield engine, own(engine)
    finally:
        await engine.close()


def own(engine: VllmOmniEngine) -> StandIn:
    return StandIn(engine._keeper.client._url)


# A server of our own


async def test_our_own_server_is_started_and_nothing_of_it_is_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "bentovox.speech.vllm_omni")
    async with supervised() as (engine, server):
        assert engine.ready
        assert heard(await spoken(engine, asked())) == "abc"
        told = server.tell()
        pids = (told["pid"], told["stage_pid"])
        assert all(map(alive, pids))
        assert os.listdir(told["folder"]) == []  # noqa: PTH208
    assert not any(map(alive, pids))
    with pytest.raises(FileNotFoundError):
        os.listdir(told["folder"])  # noqa: PTH208
    assert "| (APIServer) INFO 01-01 00:00:00 loading m" in caplog.text
    assert "the vLLM-Omni server is up" in caplog.text


@pytest.mark.parametrize("trusted", [False, True])
async def test_a_models_code_is_run_only_if_asked_for_and_that_is_said(
    caplog: pytest.LogCaptureFixture, *, trusted: bool
) -> None:
    caplog.set_level(logging.INFO, "bentovox.speech.vllm_omni")
    options = {"trust_remote_code": True} if trusted else {}
    async with supervised(**options) as (_, server):
        assert server.tell()["trusts_code"] == trusted
    assert ("repository brings along will be run" in caplog.text) == trusted


async def test_a_server_that_ends_at_start_is_told_with_its_last_words() -> None:
    with pytest.raises(ConfigurationError, match=r"exit code 1\n(.|\n)*CUDA out of memory"):
        async with supervised("--fail-while", __file__):
            pass


async def test_a_server_that_does_not_come_up_in_time_is_given_up() -> None:
    began = time.monotonic()
    with pytest.raises(ConfigurationError, match="not up after"):
        async with supervised("--load-s", "60", start_timeout_s=1.0):
            pass
    assert time.monotonic() - began < 10


async def test_a_killed_server_fails_the_request_at_once_and_is_started_anew() -> None:
    async with supervised() as (engine, server):
        ref = reference(voice_id="v")
        await engine.prepare(ref)
        old = server.switch(delay_s=0.1)
        frames = engine.synthesise(asked("a" * 190, ref=ref))
        await anext(frames)
        began = time.monotonic()
        os.kill(old["pid"], signal.SIGKILL)
        with pytest.raises(EngineError):
            async for _ in frames:
                pass
        assert time.monotonic() - began < 0.5
        await until(lambda: not engine.ready, 1, "it is noticed")
        with pytest.raises(UnavailableError) as caught:
            await spoken(engine, asked())
        assert caught.value.retry_after_s
        await until(lambda: engine.ready, 15, "it is back")
        assert not alive(old["stage_pid"])
        new = own(engine).tell()
        assert new["pid"] != old["pid"]
        assert heard(await spoken(engine, asked(ref=ref))) == "abc"


@pytest.mark.parametrize("lying_health", [False, True])
async def test_a_server_without_a_live_stage_is_started_anew(lying_health: bool) -> None:  # noqa: FBT001
    async with supervised() as (engine, server):
        old = server.switch(dead_stage=1, lying_health=lying_health)["pid"]
        failed = 0
        while engine.ready:
            try:
                await spoken(engine, asked())
            except (EngineError, UnavailableError):
                failed += 1
            await asyncio.sleep(0.01)
        assert failed
        await until(lambda: engine.ready, 15, "it is back")
        assert own(engine).tell()["pid"] != old
        assert not alive(old)
        assert heard(await spoken(engine, asked())) == "abc"


async def test_a_start_that_fails_is_tried_again_after_longer_and_longer_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flag = tmp_path / "out-of-memory"
    async with supervised("--fail-while", str(flag)) as (engine, server):
        flag.touch()
        os.kill(server.tell()["pid"], signal.SIGKILL)
        await until(lambda: caplog.text.count("server is down") >= 3, 15, "two more starts")
        assert not engine.ready
        flag.unlink()
        await until(lambda: engine.ready, 15, "it is back")
        assert heard(await spoken(engine, asked())) == "abc"


async def test_a_dead_stage_is_noticed_without_a_request() -> None:
    async with supervised() as (engine, server):
        server.switch(dead_stage=0)
        await until(lambda: not engine.ready, 1.5, "it is noticed")


async def test_an_orchestrator_that_died_is_500_and_then_a_new_start() -> None:
    async with supervised() as (engine, server):
        server.switch(orchestrator_dead=True)
        with pytest.raises(EngineError, match="500"):
            await spoken(engine, asked())
        await until(lambda: not engine.ready, 5, "it is noticed")
        await until(lambda: engine.ready, 15, "it is back")


async def test_one_request_that_breaks_off_restarts_nothing() -> None:
    async with supervised() as (engine, server):
        pid = server.switch(cut_after=0)["pid"]
        with pytest.raises(EngineError):
            await spoken(engine, asked())
        server.switch(reset=True)
        await asyncio.sleep(0.5)  # two probes
        assert engine.ready
        assert own(engine).tell()["pid"] == pid


async def test_a_stubborn_stage_is_killed_with_its_server() -> None:
    async with supervised("--stubborn-stage") as (_, server):
        told = server.tell()
    assert not alive(told["stage_pid"])
    assert not alive(told["pid"])


def test_a_server_never_outlives_a_service_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from services.speech.engines.vllm_omni.engine import VllmOmniEngine\n"
        "async def main():\n"
        f"    engine = VllmOmniEngine(command={COMMAND!r}, model='m')\n"
        "    await engine.start()\n"
        "    print(engine._keeper.client._url, flush=True)\n"
        "    await asyncio.sleep(3600)\n"
        "asyncio.run(main())\n"
    )
    service = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=STAND_IN.parents[1],
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert service.stdout is not None
    with service.stdout:
        told = StandIn(service.stdout.readline().strip()).tell()
    service.kill()
    service.wait()
    deadline = time.monotonic() + 8
    folder = Path(told["folder"])
    assert folder.parent == tmp_path
    while alive(told["pid"]) or alive(told["stage_pid"]) or folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
