"""What one hop costs: processor time a stream of the gateway, beside nginx and an aiohttp relay.

A backend sends 32 server-sent events, 5 ms apart, over 32 connections at once; each relay runs in a
process of its own, whose processor time is read. `python -m benchmarks.relay`, and a number of
events, prints each one's turns as JSON; it needs what the gateway needs. nginx (Debian's package
`nginx-light`) is left out where there is none.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
import uvloop

from benchmarks.contestants import Server, free_port, in_turn, running
from benchmarks.load import run
from services.gateway.routes import build
from services.server import uvicorn_http
from services.server.shell import Shell
from services.settings.sections import GatewaySettings

_EVENTS, _APART_S, _CONCURRENCY, _REQUESTS, _ROUNDS = 32, 0.005, 32, 1600, 5
GATEWAY, NGINX, AIOHTTP = "Bentovox gateway", "nginx", "aiohttp relay"
_EVENT = b'data: {"choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}\n\n'
_PATH = "/v1/chat/completions"


def ours() -> Any:
    """Return the gateway before the backend, as a role serves it."""
    uvicorn_http.install()
    return Shell(build(GatewaySettings(), {"chat": [os.environ["RELAY_BACKEND"]]}))


def with_aiohttp() -> Any:
    """Return the plainest relay that aiohttp's client allows."""
    session: list[aiohttp.ClientSession] = []
    url = os.environ["RELAY_BACKEND"]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/readyz":
            await _begin(send, b"text/plain")
            await send({"type": "http.response.body"})
            return
        if not session:
            session.append(aiohttp.ClientSession())
        message = await receive()
        async with session[0].post(url + scope["path"], data=message["body"]) as answer:
            await _begin(send, answer.headers["content-type"].encode())
            async for piece in answer.content.iter_any():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})

    return app


def backend() -> Any:
    """Return the backend."""
    events = int(os.environ["RELAY_EVENTS"])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        stream = scope["path"] == _PATH
        await receive()
        await _begin(send, b"text/event-stream" if stream else b"application/json")
        loop = asyncio.get_running_loop()
        step = int(loop.time() / _APART_S)  # all streams go in step, as an engine takes them on
        for _ in range(events if stream else 0):
            await send({"type": "http.response.body", "body": _EVENT, "more_body": True})
            step += 1
            await asyncio.sleep(step * _APART_S - loop.time())
        await send({"type": "http.response.body", "body": b"" if stream else b'{"data": []}'})

    return app


async def _begin(send: Any, kind: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})


def serving(what: str, port: int, backend_port: int, events: int = _EVENTS) -> Server:
    """Return a server of `ours`, `with_aiohttp` or `backend`."""
    command = [sys.executable, "-m", "benchmarks.relay", what, str(port)]
    url = f"http://127.0.0.1:{backend_port}"
    environment = {"RELAY_BACKEND": url, "RELAY_EVENTS": str(events)}
    return Server(f"relay-{what}", command, port, environment=environment)


def with_nginx(program: str, port: int, backend_port: int) -> Server:
    """Return nginx as a relay: one worker, connections kept open, nothing buffered."""
    folder = Path(tempfile.mkdtemp())
    ways = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{way}_temp_path {folder / way};" for way in ways)
    (folder / "nginx.conf").write_text(
        f"""
        daemon off; worker_processes 1; pid {folder}/pid; error_log stderr;
        events {{ worker_connections 4096; }}
        http {{
            access_log off; keepalive_requests 1000000; {temporary}
            upstream backend {{
                server 127.0.0.1:{backend_port}; keepalive 256; keepalive_requests 1000000;
            }}
            server {{
                listen 127.0.0.1:{port};
                location / {{
                    proxy_pass http://backend; proxy_http_version 1.1; proxy_buffering off;
                    proxy_set_header Connection "";
                }}
            }}
        }}
        """,
        encoding="utf-8",
    )
    command = [program, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
    return Server("relay-nginx", command, port)


def costs_ms(
    relays: Mapping[str, Server], backend_port: int, events: int
) -> dict[str, list[float]]:
    """Return processor milliseconds for each stream of so many events, by relay and by turn."""
    requests = max(_CONCURRENCY, _REQUESTS * _EVENTS // events)

    def cost_ms(server: Server) -> float:
        before_s = server.spent_s()
        uvloop.run(run(server.port, {}, concurrency=_CONCURRENCY, requests=requests))
        return (server.spent_s() - before_s) / requests * 1000

    with running(serving("backend", backend_port, backend_port, events), *relays.values()):
        turns = {name: lambda *_, one=one: cost_ms(one) for name, one in relays.items()}
        return in_turn(turns, [f"{events} events"], _ROUNDS)[f"{events} events"]


def main(what: str = "32", port: str = "") -> None:
    if port:  # after what is installed in uvicorn: its own command would look that up too soon
        app = {"ours": ours, "with_aiohttp": with_aiohttp, "backend": backend}[what]()
        uvicorn.run(app, port=int(port), access_log=False, log_level="warning")
        return
    backend_port, *ports = (free_port() for _ in range(4))
    relays = {
        GATEWAY: serving("ours", ports[0], backend_port),
        AIOHTTP: serving("with_aiohttp", ports[1], backend_port),
    }
    if program := shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"):
        relays[NGINX] = with_nginx(program, ports[2], backend_port)
    print(json.dumps(costs_ms(relays, backend_port, int(what))))


if __name__ == "__main__":
    main(*sys.argv[1:])
