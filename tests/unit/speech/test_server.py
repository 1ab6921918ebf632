"""The routes with espeak on a real socket: what a client sees, and what its hanging up does."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
import uvicorn

from tests.decoding import decode
from tests.fakes.speech_engine import FakeEngine
from tests.speech_app import app_of, shelled

pytest.importorskip("espeakng_loader", reason="the espeak extra is not installed")

from services.speech.engines.espeak.engine import EspeakEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.speech.engines.protocol import SpeechEngine

TEXT = "The quick brown fox jumps over the lazy dog. "
BODY = {"model": "tts-1", "input": TEXT, "voice": "alloy"}


@asynccontextmanager
async def serving(engine: SpeechEngine) -> AsyncIterator[str]:
    app: Any = shelled(app_of(engine))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical"))
    await engine.start()
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running
        await engine.close()
        listener.close()


async def test_a_client_that_hangs_up_stops_espeak() -> None:
    engine = EspeakEngine()
    async with serving(engine) as url, httpx.AsyncClient(base_url=url) as client:
        body = {**BODY, "input": "word " * 800, "speed": 0.25, "response_format": "flac"}
        async with client.stream("POST", "/v1/audio/speech", json=body) as response:
            await anext(response.aiter_raw())
        began = time.perf_counter()
        while engine.active or len(asyncio.all_tasks()) > 4:
            await asyncio.sleep(0.005)
            assert time.perf_counter() - began < 10  # it would wait for its reader for ever


async def test_a_failure_in_the_middle_is_not_taken_for_the_end() -> None:
    engine = FakeEngine(fail_at="z", delay_s=0.01)
    async with serving(engine) as url, httpx.AsyncClient(base_url=url) as client:
        body = {**BODY, "input": "abcdefz", "response_format": "pcm"}
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/v1/audio/speech", json=body)


async def test_the_openai_client_streams_speech_to_a_decoder() -> None:
    async with (
        serving(EspeakEngine()) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        client.audio.speech.with_streaming_response.create(
            model="gpt-4o-mini-tts", voice="nova", input=TEXT, response_format="opus"
        ) as response,
    ):
        data = b"".join([chunk async for chunk in response.iter_bytes()])
    assert 2.0 < len(decode(data, sample_rate_hz=24_000)) / 24_000 < 5.0
