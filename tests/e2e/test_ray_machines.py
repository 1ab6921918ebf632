"""Ray Serve on two machines; Redis, the gateway and nginx are on a third one in front of them."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from ci.engine import codename, unpack
from ci.errors import CiError
from services.ray.config import VARIABLES, serve_config
from tests.e2e.machines import Listener, Machine, Switch, lacking
from tests.e2e.server import (
    MODEL,
    ROOT,
    environment,
    eventually,
    ray_python,
    sample,
    stack_python,
)
from tests.e2e.test_replicas import people, work_goes_on

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_LACKING = lacking()
pytestmark = [
    pytest.mark.skipif(
        ray_python() is None, reason="no Ray: RAY_PYTHON is unset, and there is no .nox/ray"
    ),
    pytest.mark.skipif(bool(_LACKING), reason=_LACKING),
]

LONG = "The quick brown fox jumps over the lazy dog, and then it does so again. " * 50
SAY = {"model": "tts-1", "voice": "alloy", "input": "Hello.", "response_format": "wav"}
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
ROLES = ("speech", "chat")
_STREAMS = 4
_DELAYS = ("upscale_delay_s", "look_back_period_s", "metrics_interval_s")
_LULL_S = 10  # a slow machine has times without a request
_SOON_S = 300.0
_NOTICED_S = 2.0
_API = 8265
_GATEWAY = 3000
_DEBIAN = (
    *("redis-server", "redis-tools", "libjemalloc2", "liblua5.1-0", "liblzf1"),
    *("lua-bitop", "lua-cjson", "nginx"),
)
_LIBRARIES = "usr/lib/x86_64-linux-gnu"


class Cluster:
    """Redis, the gateway and nginx on one machine, Ray's head and a worker on two others.

    On a fourth one is a stranger without the token, who tries to join.
    """

    joining: subprocess.Popen[bytes]

    def __init__(self, home: Path, debian: Path, switch: Switch) -> None:
        names = ("front", "head", "worker", "stranger")
        self.front, self.head, self.worker, self.stranger = map(switch.machine, names)
        self.url = f"http://{self.front.address}:8080"
        self.gateway = f"http://{self.front.address}:{_GATEWAY}"
        self.api = f"http://{self.head.address}:{_API}"
        self.ray = httpx.Client(timeout=10)
        self._debian = debian
        self._folder = switch.folder
        token = secrets.token_hex(32)
        self.ray.headers["authorization"] = f"Bearer {token}"
        self._env = environment(
            home,
            HOME=str(home),
            PYTHONPATH=str(ROOT),
            LD_LIBRARY_PATH=str(debian / _LIBRARIES),
            RAY_AUTH_TOKEN=token,
            RAY_HEAD_HOST=self.head.address,
            RAY_REDIS_ADDRESS=f"{self.front.address}:6379",
            BENTOVOX_GATEWAY__AFFINITY_AHEAD="0",
            **VARIABLES,
            **{
                f"BENTOVOX_GATEWAY__{role.upper()}": json.dumps(
                    [f"ray://{self.head.address}:{_API}/{role}"]
                )
                for role in ROLES
            },
        )

    def start_front(self) -> None:
        """Start Redis, the gateway and nginx."""
        redis = str(self._debian / "usr" / "bin" / "redis-server")
        options = ("--save", "", "--bind", self.front.address, "--protected-mode", "no")
        self._start(self.front, "redis", redis, *options)
        serve = ("-m", "bentoml", "serve", "services.gateway.service:Gateway")
        where = ("--host", self.front.address, "--port", str(_GATEWAY))
        self._start(self.front, "gateway", str(stack_python()), *serve, *where)
        nginx = str(self._debian / "usr" / "sbin" / "nginx")
        config = nginx_config(self.front.folder, self.gateway)
        self._start(self.front, "nginx", nginx, "-c", str(config), "-g", "daemon off;")

    def start_head(self, config: dict[str, Any]) -> None:
        self._start(self.head, "head", *self._ray_command("head", config))

    def deploy(self, config: dict[str, Any]) -> None:
        """Bring the cluster to a Serve config and wait until it is there."""
        deploying = self._start(self.head, "deploy", *self._ray_command("deploy", config))
        assert deploying.wait() == 0, self.head.log("deploy")

    def join(self, machine: Machine, **more: str) -> subprocess.Popen[bytes]:
        """Start Ray on a machine, as the documentation says."""
        join = ("start", "--block", f"--address={self.head.address}:6379", "--num-cpus=2")
        where = f"--node-ip-address={machine.address}"
        command = (str(ray_python()), "-m", "ray.scripts.scripts", *join, where)
        return self._start(machine, "worker", *command, **more)

    def _ray_command(self, verb: str, config: dict[str, Any]) -> tuple[str, ...]:
        path = self._folder / "serve.yaml"
        path.write_text(yaml.safe_dump(config))
        return str(ray_python()), "-m", "services.ray", verb, str(path)

    def _start(
        self, machine: Machine, name: str, *command: str, **more: str
    ) -> subprocess.Popen[bytes]:
        return machine.start(name, *command, cwd=ROOT, env={**self._env, **more})

    def nodes(self) -> set[str]:
        """Return the addresses of the nodes that Ray knows and that are alive."""
        try:
            told = self.ray.get(f"{self.api}/api/v0/nodes").json()["data"]["result"]["result"]
        except (httpx.HTTPError, LookupError, TypeError, ValueError):
            return set()
        return {one["node_ip"] for one in told if one["state"] == "ALIVE"}

    def ready(self, role: str = "speech") -> int:
        """Return how many backends of a role the gateway can ask."""
        try:
            return round(sample(self.gateway, "bentovox_backends", asked=role, state="ready"))
        except httpx.HTTPError:
            return 0

    def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=60)

    def logs(self) -> str:
        return "\n".join(
            f"== {name} on {machine.folder.name}\n{machine.log(name)}"
            for machine in (self.front, self.head, self.worker, self.stranger)
            for name in sorted(path.stem for path in machine.folder.glob("*.log"))
        )


def nginx_config(folder: Path, gateway: str) -> Path:
    """Return the configuration of compose's nginx, in front of a gateway at this URL."""
    source = ROOT / "deploy" / "compose" / "nginx"
    text = (source / "nginx.conf.template").read_text()
    for old, new in {
        "/tmp/": f"{folder}/",  # noqa: S108  the container's; first, as our paths may begin so
        "${NGINX_CONNECTIONS}": "1024",
        "${NGINX_TRUSTED_PROXY}": "127.0.0.1",
        "${NGINX_BODY_LIMIT_MIB}": "36",
        "http://gateway:3000": gateway,
        "/etc/nginx/listen.conf": str(source / "listen.conf"),
    }.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / "nginx.conf"
    path.write_text(text)
    return path


def served(*roles: str, least: int = 1) -> dict[str, Any]:
    """Return the Serve config of some roles: up to two replicas of speech, each on a machine."""
    config = serve_config()
    config["http_options"]["host"] = "0.0.0.0"  # noqa: S104  as where RAY_HEAD_HOST is set
    config["applications"] = [one for one in config["applications"] if one["name"] in roles]
    (speech,) = (one for one in config["applications"] if one["name"] == "speech")
    speech["runtime_env"]["env_vars"]["BENTOVOX_SPEECH__ENGINE"] = "espeak"
    (deployment,) = speech["deployments"]
    deployment["max_replicas_per_node"] = 1
    deployment["autoscaling_config"] |= dict.fromkeys(_DELAYS, 1) | {
        "min_replicas": least,
        "max_replicas": 2,
        "target_ongoing_requests": 0.2,
        "downscale_delay_s": _LULL_S,
    }
    return config


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
def cluster(
    home: Path, debian: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    with Switch(tmp_path_factory.mktemp("machines")) as switch:
        made = Cluster(home, debian, switch)
        with made.ray:
            try:
                made.start_front()
                made.start_head(served("speech"))
                eventually(made.nodes, _SOON_S, "the head is up")
                made.join(made.worker)
                made.joining = made.join(made.stranger, RAY_AUTH_TOKEN=secrets.token_hex(32))
                both = {made.head.address, made.worker.address}
                eventually(lambda: made.nodes() == both, _SOON_S, "the worker has joined")
                eventually(lambda: made.ready() == 1, _SOON_S, "one replica of speech")
                yield made
            finally:
                print(made.logs())  # noqa: T201  for whoever looks at what failed


def test_load_brings_a_replica_on_the_other_machine_and_its_end_takes_it_away(
    cluster: Cluster,
) -> None:
    with people(cluster) as asked:
        eventually(lambda: cluster.ready() == 2, _SOON_S, "a second replica")
        work_goes_on(asked)
        for machine in (cluster.head, cluster.worker):
            assert replica(machine)
    eventually(lambda: cluster.ready() == 1, _SOON_S, "one replica again")
    assert asked.lost == []


def replica(machine: Machine) -> int:
    """Return the process id of the one replica of speech on a machine."""
    (one,) = (pid for pid, line in machine.commands().items() if "ServeReplica:speech" in line)
    return one


def test_whoever_has_not_the_token_is_refused(cluster: Cluster) -> None:
    for path in ("/api/serve/applications/", "/api/jobs/", "/api/v0/nodes", "/nodes?view=summary"):
        assert httpx.get(f"{cluster.api}{path}", timeout=10).status_code == 401
    job = {"entrypoint": "true"}
    assert httpx.post(f"{cluster.api}/api/jobs/", json=job, timeout=10).status_code == 401
    config = httpx.put(f"{cluster.api}/api/serve/applications/", json=served("speech"), timeout=10)
    assert config.status_code == 401
    assert cluster.joining.wait(_SOON_S) != 0
    assert "InvalidAuthToken" in cluster.stranger.log("worker")
    assert cluster.nodes() == {cluster.head.address, cluster.worker.address}


def test_what_listens_asks_for_the_token_or_is_as_documented(cluster: Cluster) -> None:
    """docs/ray.md says what a firewall has to close."""
    cluster.deploy(served("speech", least=2))
    eventually(lambda: cluster.ready() == 2, _SOON_S, "two replicas")
    of_a_node = {
        "raylet": {"token"},
        "ray::DashboardAgent": {"token", "metrics"},
        "ray::RuntimeEnvAgent": {"token"},
        "ray::ServeReplica": {"token", "role"},
    }
    of_the_head = {
        "gcs_server": {"token"},
        "dashboard.py": {"token", "metrics"},
        "monitor.py": {"metrics"},
        "services.ray": {"token"},
        "ray-dashboard-ServeHead-0": {"token"},
        "ray::ServeController": {"token"},
        "ray::ProxyActor": {"token", "role at 8000"},
    }
    assert heard_at(cluster.worker) == of_a_node
    assert heard_at(cluster.head) == of_a_node | of_the_head
    assert {(str(one.address), one.port) for one in outside(cluster.front)} == {
        ("0.0.0.0", 8080),  # noqa: S104  nginx
        (cluster.front.address, _GATEWAY),
        (cluster.front.address, 6379),
    }


def outside(machine: Machine) -> list[Listener]:
    """Return the listeners of a machine that others may reach."""
    return [one for one in machine.listeners() if not one.address.is_loopback]


def heard_at(machine: Machine) -> dict[str, set[str]]:
    """Return what a stranger gets at the ports of each process."""
    listeners = [one for one in outside(machine) if "ray::IDLE" not in one.command]
    addresses = [f"{machine.address}:{one.port}" for one in listeners]
    asking = [str(ray_python()), "-c", _ASK, *_METHODS, "--", *addresses]
    said = subprocess.run(asking, check=True, capture_output=True, timeout=_SOON_S).stdout
    found: dict[str, set[str]] = {}
    for one, address, codes in zip(listeners, addresses, json.loads(said), strict=True):
        if "UNAUTHENTICATED" in codes:
            assert "OK" not in codes
            what = "token"
        else:
            what = by_http(address)
        found.setdefault(name_of(one.command), set()).add(what)
    return found


def by_http(address: str) -> str:
    """Return what a stranger gets by HTTP."""
    with httpx.Client(base_url=f"http://{address}", timeout=10) as client:
        if client.post("/get_or_create_runtime_env").status_code == 401:
            return "token"
        if client.get("/metrics").text.startswith("# HELP"):
            return "metrics"
        assert client.get("/-/routes").json() == {"/speech": "speech"}
        port = int(address.rpartition(":")[2])
        return "role" if 30_000 <= port < 31_000 else f"role at {port}"


def name_of(command: str) -> str:
    """Return which of Ray's processes this is."""
    first = command.split(maxsplit=1)[0]
    if first.startswith("ray"):  # an actor at work adds its method
        return ":".join(first.split(":")[:3]).partition(".")[0]
    named = ("dashboard.py", "monitor.py", "services.ray")
    return next((name for name in named if name in command), first.rpartition("/")[2])


_METHODS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.ReporterService/HealthCheck",
    "/ray.serve.ASGIService/HandleRequest",
)
"""One of each of Ray's gRPC services."""

_ASK = """
import json, sys, grpc
methods, addresses = sys.argv[1:].copy(), []
while methods[-1] != "--":
    addresses.insert(0, methods.pop())
found = []
for address in addresses:
    codes = []
    with grpc.insecure_channel(address) as channel:
        for method in methods[:-1]:
            try:
                channel.unary_unary(method)(b"", timeout=30)
                codes.append("OK")
            except grpc.RpcError as error:
                codes.append(error.code().name)
                if codes[-1] == "UNAVAILABLE":  # no gRPC
                    break
    found.append(codes)
print(json.dumps(found))
"""


def test_a_machine_that_dies_takes_only_the_streams_that_it_sent(cluster: Cluster) -> None:
    cluster.deploy(served("speech", least=2))
    eventually(lambda: cluster.ready() == 2, _SOON_S, "two replicas")
    body = {**SAY, "input": LONG, "response_format": "pcm"}
    whole = cluster.post("/v1/audio/speech", body).content
    usual_s = cluster.post("/v1/audio/speech", SAY).elapsed.total_seconds()
    with ExitStack() as stack:
        streams = [
            stack.enter_context(
                httpx.stream("POST", f"{cluster.url}/v1/audio/speech", json=body, timeout=60)
            )
            for _ in range(_STREAMS)
        ]
        parts = [stream.iter_bytes() for stream in streams]
        heard = [next(part) for part in parts]
        cluster.worker.kill()
        died = time.monotonic()
        assert cluster.post("/v1/audio/speech", SAY).status_code == 200
        assert time.monotonic() - died < 1 + 10 * usual_s
        lost = 0
        for number, part in enumerate(parts):
            try:
                heard[number] += b"".join(part)
            except httpx.RemoteProtocolError:
                lost += 1
                assert len(heard[number]) < 0.5 * len(whole)
            else:
                assert len(heard[number]) > 0.9 * len(whole)  # espeak-ng's lengths vary
    assert lost == _STREAMS // 2
    cluster.join(cluster.worker)
    eventually(lambda: cluster.ready() == 2, _SOON_S, "two replicas again")


def test_the_head_dies_and_comes_back_and_meanwhile_the_worker_serves(cluster: Cluster) -> None:
    before = replica(cluster.worker)
    with people(cluster) as asked:
        work_goes_on(asked)
        cluster.head.kill()
        died = time.monotonic()
        work_goes_on(asked)
        cluster.start_head(served("speech", least=2))
        eventually(lambda: cluster.ready() == 2, _SOON_S, "two replicas again")
        work_goes_on(asked)
    # Until the end of a connection is noticed, a request may still be sent on it.
    assert all(began < died + _NOTICED_S for began, _ in asked.lost), asked.lost
    assert cluster.nodes() == {cluster.head.address, cluster.worker.address}
    assert replica(cluster.worker) == before


def test_chat_answers_through_rays_own_config_of_vllm(
    cluster: Cluster, plain: dict[str, str]
) -> None:
    speech = replica(cluster.worker)
    cluster.deploy(served("speech", "chat", least=2))
    eventually(lambda: cluster.ready("chat") == 1, _SOON_S, "chat")
    answer = cluster.post("/v1/chat/completions", HELLO)
    assert answer.json()["choices"][0]["message"]["content"] == plain["Hello"]
    assert replica(cluster.worker) == speech
