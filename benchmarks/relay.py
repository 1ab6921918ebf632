"""What one hop costs: processor time a stream of the gateway, beside an aiohttp relay.

A backend sends 32 server-sent events, 5 ms apart, over 32 connections at once; each relay runs in a
process of its own, whose processor time is read. `python -m benchmarks.relay` prints the two as
JSON; it needs what the gateway needs.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import aiohttp
import uvloop

from benchmarks.contestants import Server, free_port, running
from benchmarks.load import run
from services.gateway.routes import build
from services.server.shell import Shell
from services.settings.sections import GatewaySettings

_EVENTS = int(os.environ.get("RELAY_EVENTS", "32"))
_APART_S, _CONCURRENCY, _REQUESTS = 0.005, 32, 1600
_EVENT = b'data: {"choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}\n\n'
_PATH = "/v1/chat/completions"


def ours() -> Any:
    """Return the gateway before the backend; a uvicorn factory."""
    return Shell(build(GatewaySettings(), {"chat": [_backend_url()]}))


def with_aiohttp() -> Any:
    """Return the plainest relay that aiohttp's client allows; a uvicorn factory."""
    session: list[aiohttp.ClientSession] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/readyz":
            await _begin(send, b"text/plain")
            await send({"type": "http.response.body"})
            return
        if not session:
            session.append(aiohttp.ClientSession())
        message = await receive()
        async with session[0].post(_backend_url() + scope["path"], data=message["body"]) as answer:
            await _begin(send, answer.headers["content-type"].encode())
            async for piece in answer.content.iter_any():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})

    return app


def backend() -> Any:
    """Return the backend; a uvicorn factory."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        stream = scope["path"] == _PATH
        await receive()
        await _begin(send, b"text/event-stream" if stream else b"application/json")
        for _ in range(_EVENTS if stream else 0):
            await send({"type": "http.response.body", "body": _EVENT, "more_body": True})
            await asyncio.sleep(_APART_S)
        await send({"type": "http.response.body", "body": b"" if stream else b'{"data": []}'})

    return app


async def _begin(send: Any, kind: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})


def _backend_url() -> str:
    return os.environ["RELAY_BACKEND"]


def serving(factory: str, lifespan: str, port: int, backend_port: int) -> Server:
    command = [
        *(sys.executable, "-m", "uvicorn", "--factory", f"benchmarks.relay:{factory}"),
        *("--host=127.0.0.1", f"--port={port}", "--no-access-log", "--log-level=warning"),
        f"--lifespan={lifespan}",
    ]
    environment = {"RELAY_BACKEND": f"http://127.0.0.1:{backend_port}"}
    return Server(f"relay-{factory}", command, port, environment=environment)


async def _cost_ms(server: Server) -> float:
    await run(server.port, {}, concurrency=_CONCURRENCY, requests=64)
    before_s = server.spent_s()
    requests = max(_CONCURRENCY, _REQUESTS * 32 // max(32, _EVENTS))
    await run(server.port, {}, concurrency=_CONCURRENCY, requests=requests)
    return (server.spent_s() - before_s) / requests * 1000


def main() -> None:
    """Print processor milliseconds a stream, by relay."""
    backend_port, gateway_port, aiohttp_port = (free_port() for _ in range(3))
    gateway = serving("ours", "on", gateway_port, backend_port)
    plain = serving("with_aiohttp", "off", aiohttp_port, backend_port)
    with running(serving("backend", "off", backend_port, backend_port), gateway, plain):
        costs_ms = {
            "Bentovox gateway": uvloop.run(_cost_ms(gateway)),
            "aiohttp relay": uvloop.run(_cost_ms(plain)),
        }
    print(json.dumps(costs_ms))


if __name__ == "__main__":
    main()
