"""`python -m services.ray`: a Ray head, the roles on it, and the gateway in front, until SIGTERM.

    python -m services.ray [--port 3000] [--host 127.0.0.1]

The roles are those of the profile, with BENTOVOX_RAY__MIN_REPLICAS to BENTOVOX_RAY__MAX_REPLICAS
replicas each; further machines may join the head (`ray start --address`). Ray always asks for a
token: RAY_AUTH_TOKEN, or one made for this run.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
from typing import Final

_TOKEN: Final = 32  # bytes; Ray refuses short ones


def main() -> int:
    """Run until the gateway ends or a signal comes; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.ray", description=__doc__)
    parser.add_argument("--port", type=int, default=3000, help="of the gateway (default: 3000)")
    parser.add_argument("--host", default="127.0.0.1", help="of the gateway (default: 127.0.0.1)")
    given = parser.parse_args()
    set_environment()

    # Ray reads its variables when it is imported.
    import ray
    from ray import serve

    from services.ray.replica import SERVICES, application, prefix_of
    from services.server.role import preflight
    from services.settings import settings

    preflight()  # a setting that is wrong is one line, before anything starts
    chosen = settings().ray
    ray.init(
        dashboard_host="127.0.0.1",
        dashboard_port=chosen.dashboard_port,
        include_dashboard=True,
        log_to_driver=False,
    )
    try:
        serve.start(proxy_location="Disabled")  # the gateway asks each replica by its own port
        for role in SERVICES:
            serve.run(
                application(role, chosen), name=role, route_prefix=prefix_of(role), blocking=False
            )
        return _gateway(given.host, given.port, chosen.dashboard_port)
    finally:
        serve.shutdown()
        ray.shutdown()


def set_environment() -> None:
    """Set what Ray needs here, where the operator has not.

    Without a token whoever reaches one of Ray's ports runs code on this machine (CVE-2023-48022).
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(_TOKEN))
    os.environ.setdefault("RAY_SERVE_ENABLE_DIRECT_INGRESS", "1")
    os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
    os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "5")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def _gateway(host: str, port: int, dashboard_port: int) -> int:
    """Serve the gateway before the replicas; return its exit code."""
    from services.ray.replica import SERVICES

    backends = {
        f"BENTOVOX_GATEWAY__{role.upper()}": json.dumps(
            [f"ray://127.0.0.1:{dashboard_port}/{role}"]
        )
        for role in SERVICES
    }
    command = [sys.executable, "-m", "bentoml", "serve", "services.gateway.service:Gateway"]
    command += ["--host", host, "--port", str(port)]
    with subprocess.Popen(command, env={**os.environ, **backends}) as process:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: process.terminate())
        return process.wait()


if __name__ == "__main__":
    sys.exit(main())
