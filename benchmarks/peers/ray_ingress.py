"""The chat role on Ray Serve behind Ray's own proxy: `python -m benchmarks.peers.ray_ingress PORT`.

The replica is that of `services.ray`; only the way to it is another. `benchmarks.ray` sets Ray's
variables.
"""

from __future__ import annotations

import signal
import sys
from importlib import import_module
from typing import Any

import ray
from ray import serve


class _Replica:
    def __serve_build_asgi_app__(self) -> Any:
        return import_module("services.chat.service").Chat.shell()


def main(port: int) -> None:
    """Serve on `port` until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    deployment = serve.deployment(
        serve.ingress()(_Replica), name="Chat", max_ongoing_requests=10_000
    )
    ray.init("local", include_dashboard=False, log_to_driver=False)
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        serve.run(deployment.bind(), route_prefix="/", blocking=True)
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
