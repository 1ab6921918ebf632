"""`healthcheck.py`: a container is healthy if its server is ready."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = Path(__file__).parents[3] / "bentos" / "bases" / "healthcheck.py"


def check(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in {"PORT", "BENTOML_PORT"}}
    return subprocess.run(
        [sys.executable, "-IS", SCRIPT, *words],
        env={**clean, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@contextlib.contextmanager
def serving(status: int) -> Iterator[str]:
    """Serve a status at /readyz, 404 elsewhere; yield the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(b'{"status": "said"}')

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield str(server.server_port)
        finally:
            server.shutdown()
            thread.join()


def test_another_server_may_be_asked() -> None:
    with serving(200) as port:
        assert check(f"localhost:{port}/readyz", BENTOML_PORT="1").returncode == 0
        assert check(f"localhost:{port}/elsewhere", BENTOML_PORT="1").returncode == 1


def test_a_server_that_is_ready_is_healthy() -> None:
    with serving(200) as port:
        done = check(BENTOML_PORT=port)
    assert (done.returncode, done.stdout) == (0, '200 {"status": "said"}\n')


@pytest.mark.parametrize("status", [503, 404, 500, 301])
def test_a_server_that_says_anything_else_is_not(status: int) -> None:
    with serving(status) as port:
        done = check(BENTOML_PORT=port)
    assert done.returncode == 1
    assert done.stdout.startswith(str(status))


def test_another_path_is_asked_where_one_is_given() -> None:
    with serving(503) as port:
        assert check("/readyz", BENTOML_PORT=port).stdout.startswith("503")
        assert check("/livez", BENTOML_PORT=port).stdout.startswith("404")


def test_bentomls_own_port_wins_over_the_general_one() -> None:
    with serving(200) as port, serving(503) as other:
        assert check(BENTOML_PORT=port, PORT=other).returncode == 0
        assert check(PORT=other).returncode == 1


def test_no_server_is_one_line_with_the_port() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, never listening: refused, and nobody else's
        port = unused.getsockname()[1]
        done = check(BENTOML_PORT=str(port))
    assert done.returncode == 1
    assert done.stdout.startswith(f"port {port}: ConnectionRefusedError")
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_a_server_that_speaks_something_else_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            client, _ = server.accept()
            with client:
                client.recv(1000)
                client.sendall(b"hello, who is there?\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        done = check(BENTOML_PORT=str(server.getsockname()[1]))
        thread.join()
    assert done.returncode == 1
    assert "BadStatusLine" in done.stdout
    assert done.stderr == ""
