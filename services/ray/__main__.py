"""`python -m services.ray`: the roles on Ray Serve.

    python -m services.ray [--host 127.0.0.1] [--port 3000]
        on this machine: a Ray head, the roles on it, and the gateway in front, until SIGTERM
    python -m services.ray head [FILE]
        a Ray head at RAY_HEAD_HOST and the roles on it, for a cluster, until SIGTERM; further
        machines join with `ray start --address=HEAD:6379 --block`
    python -m services.ray deploy [FILE]
        bring a running cluster to the roles of the settings, or of a Serve config
    python -m services.ray config
        print that Serve config, as `serve deploy` and KubeRay take it

Ray always asks for a token: RAY_AUTH_TOKEN, the content of the file RAY_AUTH_TOKEN_PATH, or one
made for the run on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from services.errors import ConfigurationError
from services.ray.config import (
    VARIABLES,
    backends,
    deploy,
    is_local,
    read_config,
    serve_config,
    until_answers,
    until_running,
)
from services.server.role import preflight
from services.settings import settings, variable

_TOKEN: Final = 32  # bytes; Ray refuses short ones
_LOOK_S: Final = 1.0
_API_S: Final = 120.0
_GCS_PORT: Final = "6379"  # `ray start`'s own default, for nodes that join


def main() -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m services.ray",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", nargs="?", choices=("head", "deploy", "config"))
    parser.add_argument("file", nargs="?", help="of head, deploy: a Serve config in YAML")
    parser.add_argument("--host", default="127.0.0.1", help="of the gateway (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="of the gateway (default: RAY_API_PORT or 3000)")
    asked = parser.parse_args()
    preflight()  # a setting that is wrong is one line, before anything starts
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)  # Ray reads them when it is imported
    try:
        _read_token()
        config = read_config(asked.file) if asked.file else serve_config()
        if asked.verb == "config":
            sys.stdout.write(yaml.safe_dump(config, sort_keys=False))
        elif asked.verb == "deploy":
            deploy(config)
            until_running(config)
        elif asked.verb == "head":
            _head(config)
        else:
            return _here(config, asked.host, asked.port or settings().ray.api_port)
    except ConfigurationError as error:
        sys.stderr.write(f"bentovox: {error.message}\n")
        return 1
    return 0


def _read_token() -> None:
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not path or os.environ.get("RAY_AUTH_TOKEN"):
        return
    try:
        os.environ["RAY_AUTH_TOKEN"] = Path(path).read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise ConfigurationError(f"RAY_AUTH_TOKEN_PATH={path}: {exc.strerror}.") from exc


def _here(config: dict[str, Any], host: str, port: int) -> int:
    """Run everything on this machine; return the gateway's exit code."""
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(_TOKEN))
    if not is_local(settings().ray.head_host):
        raise ConfigurationError(
            f"RAY_HEAD_HOST={settings().ray.head_host} is for `python -m services.ray head`; on "
            "one machine leave it out."
        )
    with _ray():
        try:
            _start(config)
            return _gateway(host, port)
        finally:
            from ray import serve

            serve.shutdown()


def _head(config: dict[str, Any]) -> None:
    """Run Ray's head and bring it to a Serve config, until SIGTERM.

    With RAY_REDIS_ADDRESS, replicas on other nodes serve on when the head ends.
    """
    if not os.environ.get("RAY_AUTH_TOKEN"):
        raise ConfigurationError(
            "RAY_AUTH_TOKEN is not set; every node of the cluster needs the same one, of 32 "
            "random characters or more."
        )
    os.environ.setdefault("RAY_GCS_SERVER_PORT", _GCS_PORT)
    with _ray():
        _start(config)
        told = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: told.set())
        while not told.wait(_LOOK_S):
            _end_with_ray()


def _end_with_ray() -> None:
    """End this process if one of Ray's has ended, as `ray start --block` does: start it anew."""
    from ray._private import worker

    node = worker._global_node  # noqa: SLF001
    for name, _ in node.dead_processes():
        sys.stderr.write(f"bentovox: {name} has ended, and so the head does.\n")
        node.kill_all_processes(check_alive=False)
        os._exit(1)  # what asks the dead one for leave would wait for long


def _start(config: dict[str, Any]) -> None:
    """Bring the head to a Serve config; meanwhile tell of an application that fails."""
    until_answers(_API_S)  # one that comes back knows where its API was, before that listens again
    deploy(config)

    def watch() -> None:
        try:
            until_running(config)
        except ConfigurationError as error:
            sys.stderr.write(f"bentovox: {error.message}\n")

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _ray() -> Iterator[None]:
    """Run Ray's head in this context."""
    chosen = settings().ray
    if is_local(chosen.head_host):  # else Ray takes the machine's address, and listens on all
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    # Ray's processes import `services` as this one does.
    path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    try:
        address = socket.gethostbyname(chosen.head_host)
    except OSError as exc:
        raise ConfigurationError(f"RAY_HEAD_HOST={chosen.head_host} has no address.") from exc
    ray.init(
        _node_ip_address=address,
        dashboard_host=address,
        dashboard_port=chosen.dashboard_port,
        include_dashboard=True,
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()


def _gateway(host: str, port: int) -> int:
    """Serve the gateway before the replicas; return its exit code."""
    found = {
        variable(f"gateway.{role}"): json.dumps(urls) for role, urls in backends(settings()).items()
    }
    command = [sys.executable, "-m", "bentoml", "serve", "services.gateway.service:Gateway"]
    command += ["--host", host, "--port", str(port)]
    with subprocess.Popen(command, env={**os.environ, **found}) as process:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: process.terminate())
        return process.wait()


if __name__ == "__main__":
    sys.exit(main())
