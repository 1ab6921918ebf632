"""What one hop costs: processor time a stream of the gateway, beside an aiohttp relay.

A backend sends 32 server-sent events, 5 ms apart, over 32 connections at once; each relay runs in a
process of its own, whose processor time is read. `python -m benchmarks.relay` prints the two.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import Any

import aiohttp
import psutil
import uvloop

from benchmarks.load import run
from benchmarks.servers import ROOT, free_port
from services.gateway.app import build
from services.server.shell import Shell
from services.settings.sections import GatewaySettings

_EVENTS, _APART_S, _CONCURRENCY, _REQUESTS = 32, 0.005, 32, 1600
_EVENT = b'data: {"choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}\n\n'
_PATH = "/v1/chat/completions"


def ours() -> Any:
    """Return the gateway before the backend; a uvicorn factory."""
    return Shell(build(GatewaySettings(), {"chat": [_backend_url()]}))


def with_aiohttp() -> Any:
    """Return the plainest relay that aiohttp's client allows; a uvicorn factory."""
    session: list[aiohttp.ClientSession] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await _lifespan(receive, send)
            return
        if not session:
            session.append(aiohttp.ClientSession())
        if scope["path"] == "/readyz":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        message = await receive()
        async with session[0].post(_backend_url() + scope["path"], data=message["body"]) as answer:
            headers = [(b"content-type", answer.headers["content-type"].encode())]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            async for piece in answer.content.iter_any():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    return app


def backend() -> Any:
    """Return the backend; a uvicorn factory."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await _lifespan(receive, send)
            return
        stream = scope["path"] == _PATH
        kind = b"text/event-stream" if stream else b"application/json"
        await receive()
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}
        )
        for _ in range(_EVENTS if stream else 0):
            await send({"type": "http.response.body", "body": _EVENT, "more_body": True})
            await asyncio.sleep(_APART_S)
        await send({"type": "http.response.body", "body": b"" if stream else b'{"data": []}'})

    return app


async def _lifespan(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()


def _backend_url() -> str:
    return os.environ["RELAY_BACKEND"]


def _serve(factory: str, port: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "uvicorn", "--factory", f"benchmarks.relay:{factory}"),
            *("--host", "127.0.0.1", "--port", str(port), "--no-access-log"),
            *("--log-level", "warning"),
        ],
        cwd=ROOT,
        env=environment,
    )


async def _cost_ms(process: subprocess.Popen[bytes], port: int) -> float:
    await _until_ready(port)
    watched = psutil.Process(process.pid)
    await run("127.0.0.1", port, {}, concurrency=_CONCURRENCY, requests=64)
    before = watched.cpu_times()
    result = await run("127.0.0.1", port, {}, concurrency=_CONCURRENCY, requests=_REQUESTS)
    after = watched.cpu_times()
    if result.bad:
        raise SystemExit(f"{result.bad} answers were no stream")
    spent_s = after.user + after.system - before.user - before.system
    return spent_s / _REQUESTS * 1000


async def _until_ready(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            status = await reader.readline()
            writer.close()
            if b" 200 " in status:
                return
        except OSError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit("a relay did not start")


def measure() -> dict[str, float]:
    """Return processor milliseconds a stream of 32 events, by relay."""
    ports = [free_port() for _ in range(3)]
    environment = {**os.environ, "RELAY_BACKEND": f"http://127.0.0.1:{ports[0]}"}
    processes = [
        _serve(name, port, environment)
        for name, port in zip(("backend", "ours", "with_aiohttp"), ports, strict=True)
    ]
    try:

        async def both() -> dict[str, float]:
            return {
                "Bentovox gateway": await _cost_ms(processes[1], ports[1]),
                "aiohttp relay": await _cost_ms(processes[2], ports[2]),
            }

        return uvloop.run(both())
    finally:
        for process in processes:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    measured = measure()
    if "--json" in sys.argv:
        print(json.dumps(measured))
    else:
        for name, cost_ms in measured.items():
            print(f"{name}: {cost_ms:.2f} ms of processor time a stream of {_EVENTS} events")
