"""A worker, a real process, that dies in the middle of a request and comes back."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from pathlib import Path

WORKER = """
import http.server, json, os, socket, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = json.dumps({"status": "ready", "data": [{"id": "m"}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        with open(sys.argv[2], "a") as begun:
            begun.write("begun\\n")
        os._exit(9)

    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.socket = socket.socket(fileno=int(sys.argv[1]))

Server().serve_forever()
"""


async def test_a_post_that_its_worker_died_of_is_502_and_not_done_again_by_the_next(
    door: Any, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        shared = listening.fileno()

        async def worker() -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-c", WORKER, str(shared), str(begun), pass_fds=[shared]
            )

        async def supervise(first: asyncio.subprocess.Process) -> asyncio.subprocess.Process:
            await first.wait()
            return await worker()

        supervising = asyncio.ensure_future(supervise(await worker()))
        front = await door(chat=[f"http://127.0.0.1:{listening.getsockname()[1]}"])
        while not front.pools.by_role["chat"].ready:  # the interpreter has to start
            await front.probe()
        async with httpx.AsyncClient(timeout=30) as client:  # over the connection of the probe
            answer = await client.post(front.url + "/v1/chat/completions", json={"model": "m"})
        second = await supervising
        while not front.pools.by_role["chat"].ready:
            await front.probe()
        second.kill()
        await second.wait()
    assert answer.status_code == 502
    assert begun.read_text() == "begun\n"
