"""An autoscaler's loop with real replicas: from none to some and back, and no request is lost.

The test plays what neither runs here: HPA or KEDA, which read the gateway's gauge, and Ray's head,
which lists the replicas.
"""

from __future__ import annotations

import json
import math
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from tests.e2e.server import Server, eventually
from tests.e2e.test_replicas import DRAIN, GATEWAY, SPEECH, people

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST = 2
_EACH = 2  # requests that one replica should have at work
_UP_S = 60.0
_DOWN_S = 60.0


class Cluster:
    """Replicas as a cluster has them: started, listed, and ended."""

    def __init__(self, home: Path) -> None:
        self.replicas: list[Server] = []
        self.most = 0
        self._home = home

    def scale(self, count: int) -> None:
        while len(self.replicas) < count:
            self.replicas.append(Server(self._home, SPEECH, **DRAIN))
        self.most = max(self.most, count)
        while len(self.replicas) > count:
            self.replicas.pop().end()

    @property
    def listed(self) -> bytes:
        targets = [
            {
                "ip": "127.0.0.1",
                "port": one.port,
                "name": f"SERVE_REPLICA::speech#Speech#{one.port}",
            }
            for one in self.replicas
        ]
        group = {"app_name": "speech", "protocol": "HTTP", "route_prefix": "/"}
        return json.dumps({"target_groups": [{**group, "targets": targets}]}).encode()


@contextmanager
def head(cluster: Cluster) -> Iterator[str]:
    """Serve the list of replicas; yield where."""

    class Head(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = cluster.listed
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Head) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ray://127.0.0.1:{server.server_port}/speech"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def autoscaler(gateway: Server, cluster: Cluster) -> Iterator[None]:
    """Have as many replicas as the gauge has asked for in the last few seconds."""
    enough = threading.Event()

    def scale() -> None:
        wanted: list[int] = []
        while not enough.wait(0.5):
            asked = gateway.sample("bentovox_asked_requests", asked="speech")
            wanted = [*wanted, min(MOST, math.ceil(asked / _EACH))][-10:]
            cluster.scale(max(wanted))

    thread = threading.Thread(target=scale)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def test_load_goes_up_and_down_and_replicas_with_it(home: Path) -> None:
    cluster = Cluster(home)
    with head(cluster) as url:
        settings = {
            "BENTOVOX_GATEWAY__SPEECH": json.dumps([url]),
            "BENTOVOX_GATEWAY__HOLD_S": "120",
        }
        try:
            with Server(home, GATEWAY, ready_as="degraded", **settings) as gateway:
                with autoscaler(gateway, cluster):
                    with people(gateway) as asked:  # there is nobody yet: the first ones wait
                        eventually(lambda: asked.whole, _UP_S, "the first answer")
                        eventually(lambda: cluster.most == MOST, _UP_S, "all replicas")
                        before = len(asked.whole)
                        eventually(lambda: len(asked.whole) > before + 20, _UP_S, "answers")
                        assert gateway.status() == "ready"
                    eventually(lambda: not cluster.replicas, _DOWN_S, "no replica")
                assert asked.lost == []
                eventually(
                    lambda: gateway.sample("bentovox_backends", asked="speech") == 0,
                    _DOWN_S,
                    "the pool is empty",
                )
                assert gateway.status() == "degraded"  # and takes who waits
        finally:
            cluster.scale(0)
