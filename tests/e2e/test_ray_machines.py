"""Ray Serve on two machines, with Redis, the gateway and nginx on a third one in front."""

from __future__ import annotations

import json
import secrets
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from ci.engine.packages import codename, unpack
from ci.errors import CiError
from services.ray.config import VARIABLES, serve_config
from tests.e2e.machines import Machine, Switch, lacking
from tests.e2e.server import ROOT, environment, eventually, ray_python, stack_python

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(
        ray_python() is None, reason="no Ray: RAY_PYTHON is unset, and there is no .nox/ray"
    ),
    pytest.mark.skipif(bool(lacking()), reason=lacking()),
]

_UP_S = 300.0
_SOON_S = 120.0
_DEBIAN = (
    *("redis-server", "redis-tools", "libjemalloc2", "liblua5.1-0", "liblzf1"),
    *("lua-bitop", "lua-cjson", "nginx"),
)
TEXT = "The quick brown fox jumps over the lazy dog, and then it does so again. " * 50
LIBRARIES = "usr/lib/x86_64-linux-gnu"


def nginx_config(folder: Path) -> Path:
    """Return the configuration of compose's nginx, in front of the gateway on the same machine."""
    source = ROOT / "deploy" / "compose" / "nginx"
    text = (source / "nginx.conf.template").read_text()
    for old, new in {
        "${NGINX_CONNECTIONS}": "1024",
        "${NGINX_TRUSTED_PROXY}": "127.0.0.1",
        "${NGINX_BODY_LIMIT_MIB}": "36",
        "http://gateway:3000": "http://127.0.0.1:3000",
        "/etc/nginx/listen.conf": str(source / "listen.conf"),
        "/tmp/": f"{folder}/",
    }.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / "nginx.conf"
    path.write_text(text)
    return path


class Cluster:
    """Redis, the gateway and nginx on one machine, Ray's head and a worker on two others."""

    def __init__(self, home: Path, debian: Path, switch: Switch) -> None:
        self.front, self.head, self.worker = map(switch.machine, ("front", "head", "worker"))
        self.url = f"http://{self.front.address}:8080"
        self.api = f"http://{self.head.address}:8265"
        self.token = secrets.token_hex(32)
        self.headers = {"authorization": f"Bearer {self.token}"}
        self._debian = debian
        self._folder = switch.folder
        self._env = environment(
            home,
            PYTHONPATH=str(ROOT),
            LD_LIBRARY_PATH=str(debian / LIBRARIES),
            RAY_AUTH_TOKEN=self.token,
            RAY_HEAD_HOST=self.head.address,
            **VARIABLES,
            RAY_REDIS_ADDRESS=f"{self.front.address}:6379",
        )

    def start_front(self) -> None:
        """Start Redis, the gateway and nginx."""
        redis = str(self._debian / "usr" / "bin" / "redis-server")
        save = ("--save", "", "--protected-mode", "no", "--bind", self.front.address)
        self._start(self.front, "redis", redis, *save)
        head = f"ray://{self.head.address}:8265"
        self._env |= {
            f"BENTOVOX_GATEWAY__{role.upper()}": json.dumps([f"{head}/{role}"])
            for role in ("speech",)
        }
        serve = ("-m", "bentoml", "serve", "services.gateway.service:Gateway")
        where = ("--host", "127.0.0.1", "--port", "3000")
        self._start(self.front, "gateway", str(stack_python()), *serve, *where)
        config = nginx_config(self.front.folder)
        nginx = str(self._debian / "usr" / "sbin" / "nginx")
        self._start(self.front, "nginx", nginx, "-c", str(config), "-g", "daemon off;")

    def start_head(self, config: dict[str, Any]) -> None:
        self._ray("head", self.head, "-m", "services.ray", "head", self.written(config))

    def start_worker(self) -> None:
        join = ("start", "--block", f"--address={self.head.address}:6379")
        where = f"--node-ip-address={self.worker.address}"
        self._ray("worker", self.worker, "-m", "ray.scripts.scripts", *join, where)

    def written(self, config: dict[str, Any]) -> str:
        path = self._folder / "serve.yaml"
        path.write_text(yaml.safe_dump(config))
        return str(path)

    def _ray(self, name: str, machine: Machine, *arguments: str) -> None:
        self._start(machine, name, str(ray_python()), *arguments)

    def _start(self, machine: Machine, name: str, *command: str) -> None:
        machine.start(name, *command, cwd=ROOT, env=self._env)

    def told(self, path: str) -> Any:
        """Return what Ray's API tells; None while it does not."""
        try:
            answer = httpx.get(f"{self.api}{path}", headers=self.headers, timeout=10)
            return answer.raise_for_status().json()
        except (httpx.HTTPError, ValueError):
            return None

    def ready(self, role: str) -> int:
        """Return how many backends of a role can answer, by the gateway's /readyz."""
        try:
            state = httpx.get(f"{self.url}/readyz", timeout=5).json()["detail"]
        except (httpx.HTTPError, ValueError):
            return -1
        return state


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Redis and nginx, from Debian's archive."""
    folder = tmp_path_factory.mktemp("debian")
    try:
        unpack(_DEBIAN, folder / "root", folder / "work", codename())
    except CiError as error:
        pytest.skip(f"no Redis and no nginx: {error}")
    return folder / "root"


@pytest.fixture(scope="module")
def cluster(home: Path, debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Switch(tmp_path_factory.mktemp("machines")) as switch:
        made = Cluster(home, debian, switch)
        yield made


def test_try(cluster: Cluster) -> None:
    config = serve_config()
    config["applications"] = [a for a in config["applications"] if a["name"] == "speech"]
    config["http_options"]["host"] = "0.0.0.0"
    (dep,) = config["applications"][0]["deployments"]
    dep |= {"max_replicas_per_node": 1}
    dep["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2, "upscale_delay_s": 1, "downscale_delay_s": 2}
    t = time.time()
    cluster.start_front()
    cluster.start_head(config)
    try:
        eventually(lambda: cluster.told("/api/version"), 60, "head")
        print("head", time.time() - t)
        cluster.start_worker()
        eventually(lambda: len((cluster.told("/nodes?view=summary") or {}).get("data",{}).get("summary",[])) == 2, 60, "worker")
        print("worker", time.time() - t)
        def ok():
            print(round(time.time() - t,1), cluster.ready("speech")); time.sleep(1)
            return "ready" == (cluster.ready("speech") or {}).get("speech") if isinstance(cluster.ready("speech"),dict) else False
        eventually(ok, 100, "gateway ready")
        print("ready", time.time() - t)
        import os
        while not os.path.exists("/tmp/machines/go"):
            time.sleep(.5)
        from pathlib import Path as P; exec(P("/tmp/machines/go").read_text(), globals() | {"cluster": cluster, "config": config, "t": t})
    finally:
        for m, n in ((cluster.front,"redis"),(cluster.front,"gateway"),(cluster.front,"nginx"),(cluster.head,"head"),(cluster.worker,"worker")):
            try: print("=====", n, m.log(n)[-2500:])
            except OSError as e: print(e)
