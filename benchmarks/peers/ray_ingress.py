"""The chat role on Ray Serve behind Ray's own proxy: `python -m benchmarks.peers.ray_ingress PORT`.

The replica is that of `services.ray`, with the same settings, but for the way to it.
"""

from __future__ import annotations

import os
import signal
import sys

from services.ray.__main__ import set_environment


def main(port: int) -> None:
    """Serve on `port` until SIGTERM."""
    os.environ.setdefault("RAY_SERVE_ENABLE_DIRECT_INGRESS", "0")
    set_environment()

    import ray
    from ray import serve

    from services.ray.replica import application
    from services.settings import settings

    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    ray.init(include_dashboard=False, log_to_driver=False)
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        serve.run(application("chat", settings().ray), route_prefix="/", blocking=True)
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
