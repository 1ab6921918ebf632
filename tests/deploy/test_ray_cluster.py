"""A Ray cluster with Compose, on the CPU: what it answers, and what it keeps to itself."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import openai
import psutil
import pytest

from tests.deploy.deployment import RAY, Deployment, commands
from tests.deploy.test_stack import HELLO, MODEL, SPEECH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci.image import Image

NODES = ("head", "worker")
SERVICES = (*NODES, "gateway", "nginx")


@dataclass(frozen=True)
class Cluster:
    """A running deployment, the dashboard's login, and what listened here before it came."""

    deployment: Deployment
    password: str
    listening_before: set[int]

    def url(self) -> str:
        return self.deployment.url(8080)

    def look(self, path: str, method: str = "GET", **more: Any) -> httpx.Response:
        """Ask the dashboard with the login."""
        url = f"{self.deployment.url(8265)}{path}"
        return httpx.request(method, url, auth=("admin", self.password), timeout=30, **more)


@pytest.fixture(scope="module")
def cluster(
    compose_command: None,  # noqa: ARG001
    built: Callable[[str], Image],
    standins: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    for name in ("gateway", "ray"):
        built(name)
    ports = {"RAY_API_PORT": "0", "RAY_DASHBOARD_PORT": "0"}
    deployment = Deployment(tmp_path_factory.mktemp("ray"), RAY, **ports, **standins)
    settings = (  # without a hub
        "BENTOVOX_SPEECH__ENGINE=espeak\n"
        "BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL=/models/none\n"
    )
    (deployment.folder / "settings.env").write_text(settings, encoding="utf-8")
    before = listening()
    try:
        start = commands("Without a GPU", RAY).partition("curl ")[0]
        said = deployment.shell(f"exec 2>&1\n{start}")
        yield Cluster(deployment, said.splitlines()[0], before)
    finally:
        deployment.compose("down --volumes --timeout 5")


def listening() -> set[int]:
    """Return the ports of this machine that take a connection."""
    return set(filter(takes_a_connection, range(1, 65536)))


def takes_a_connection(port: int) -> bool:
    with socket.socket() as probe:
        # A free port may be the one that the probe itself is given: then it meets itself.
        return probe.connect_ex(("127.0.0.1", port)) == 0 and probe.getsockname()[1] != port


def test_chat_and_speech_are_answered_at_the_api(cluster: Cluster) -> None:
    with openai.OpenAI(base_url=f"{cluster.url()}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(model=MODEL, messages=HELLO)
        assert "Hello! I am the demo model" in str(answer.choices[0].message.content)
        spoken = client.audio.speech.create(**SPEECH, input="Hello from a cluster.")
    assert len(spoken.content) > 24_000


def test_health_is_answered_where_ray_serve_answers_it(cluster: Cluster) -> None:
    answer = httpx.get(f"{cluster.url()}/-/healthz", timeout=30)
    assert answer.status_code == 200
    assert answer.json()["detail"]["chat"] == "ready"


def test_dashboard_asks_for_a_login_and_is_to_look_at_only(cluster: Cluster) -> None:
    url = cluster.deployment.url(8265)
    for login in (None, ("admin", "wrong")):
        for path in ("/", "/api/serve/applications/", "/api/gcs_healthz"):
            assert httpx.get(f"{url}{path}", auth=login, timeout=30).status_code == 401
    assert "<html" in cluster.look("/").text
    applications = cluster.look("/api/serve/applications/").json()["applications"]
    assert {name: one["status"] for name, one in applications.items()} == dict.fromkeys(
        ("chat", "speech", "transcription", "conversation"), "RUNNING"
    )
    assert cluster.look("/api/jobs/", "POST", json={"entrypoint": "id"}).status_code == 403
    assert cluster.look("/api/serve/applications/", "DELETE").status_code == 403
    assert not [job for job in cluster.look("/api/jobs/").json() if job["submission_id"]]


def test_worker_has_joined(cluster: Cluster) -> None:
    nodes = cluster.look("/nodes?view=summary").json()["data"]["summary"]
    assert [node["raylet"]["state"] for node in nodes] == ["ALIVE", "ALIVE"]
    assert len({node["ip"] for node in nodes}) == 2


def test_without_the_token_nothing_is_told_or_joined_even_inside(cluster: Cluster) -> None:
    code = (
        "import urllib.error, urllib.request as web\n"
        "try: web.urlopen('http://head:8265/api/serve/applications/')\n"
        "except urllib.error.HTTPError as error: print(error.code)"
    )
    assert cluster.deployment.compose(f'exec -T gateway python3 -c "{code}"').strip() == "401"
    wrong = f"RAY_AUTH_TOKEN={'0' * 64}"
    join = f"exec -T --env {wrong} worker ray status --address head:6379"
    said = cluster.deployment.shell(f"! docker compose {join} 2>&1")
    assert "token" in said.lower()


def test_only_ports_of_nginx_are_open(cluster: Cluster) -> None:
    ours = {int(cluster.deployment.url(port).rpartition(":")[2]) for port in (8080, 8265)}
    new = listening() - cluster.listening_before
    assert ours <= new
    others = {
        connection.laddr.port
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
        and connection.pid is not None
        and "docker" not in psutil.Process(connection.pid).name()
    }
    # What is gone meanwhile was another program's, too.
    assert set(filter(takes_a_connection, new - others)) == ours
    for name in SERVICES:
        host = cluster.deployment.state(name)["HostConfig"]
        assert (host["NetworkMode"] != "host", bool(host["PortBindings"])) == (
            True,
            name == "nginx",
        )


@pytest.mark.parametrize("name", NODES)
def test_node_is_what_is_locked_and_can_write_nowhere_but_in_its_volumes(
    cluster: Cluster, name: str
) -> None:
    check = "python /usr/local/bin/wheels.py check /app/env/python/requirements.txt"
    cluster.deployment.compose(f"exec -T {name} {check}")
    status = "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status"
    within = f"id -u; {status}; for d in / /app /opt /usr /etc /tmp /logs /models /data"
    within += "; do touch $d/.w 2>/dev/null && echo $d; done; true"
    user, *rest = cluster.deployment.compose(f'exec -T {name} sh -c "{escaped(within)}"').split()
    assert int(user) > 0
    none = "0" * 16
    assert rest[:6] == ["CapEff:", none, "CapBnd:", none, "NoNewPrivs:", "1"]
    assert rest[6:] == ["/tmp", "/logs", "/models", "/data"]  # noqa: S108


def escaped(script: str) -> str:
    """Return a script for double quotes in a shell."""
    return script.replace("$", "\\$")


def test_page_shows_where_replicas_write(cluster: Cluster) -> None:
    (line,) = [
        line
        for line in commands("What is where", RAY).splitlines()
        if line.startswith("docker compose exec worker")
    ]
    head = cluster.deployment.shell(line.replace("exec worker", "exec -T head"))
    assert "worker-" in head + cluster.deployment.shell(line.replace("exec", "exec -T"))


def test_no_secret_is_in_what_docker_tells_or_what_is_logged(cluster: Cluster) -> None:
    token = (cluster.deployment.folder / ".secrets" / "ray_token").read_text().strip()
    assert len(token) == 64
    told = json.dumps([cluster.deployment.state(name) for name in SERVICES])
    told += cluster.deployment.compose("logs")
    assert token not in told
    assert cluster.password not in told
