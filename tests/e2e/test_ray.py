"""The stack on Ray Serve: what Ray does. That its answers are those of the stack, others test."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import subprocess
import threading
from contextlib import suppress
from typing import Any

import httpx
import psutil
import pytest
from websockets.sync.client import connect

from services.ray.config import ROLES
from tests.e2e.conftest import IMPATIENT, NO_RAY, RAY_TOKEN
from tests.e2e.server import MODEL, ROOT, Server, eventually, ray_python
from tests.e2e.test_limits import STORY, expect_refusal, flood, story

HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
SAY = {"model": "tts-1", "voice": "alloy", "input": "Hello.", "response_format": "wav"}
_BACK_S = 150.0


def post(stack: Server, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{stack.url}{path}", json=body, timeout=60)


def replica(stack: Server, role: str) -> psutil.Process:
    (one,) = replicas(stack, role)
    return one


def replicas(stack: Server, role: str) -> list[psutil.Process]:
    found = []
    for process in stack.processes():
        with suppress(psutil.Error):
            if f"ServeReplica:{role}" in "".join(process.cmdline()):
                found.append(process)
    return found


def ray(stack: Server, path: str, token: str = RAY_TOKEN) -> httpx.Response:
    return httpx.get(
        f"http://127.0.0.1:{stack.settings['RAY_DASHBOARD_PORT']}{path}",
        headers={"authorization": f"Bearer {token}"} if token else {},
        timeout=30,
    )


def command(stack: Server, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ray_python()), "-m", "services.ray", *arguments],
        cwd=ROOT,
        env={**os.environ, **stack.settings, **more},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_load_longer_than_health_checks_take_is_no_failure(stack: Server) -> None:
    told = ray(stack, "/api/serve/applications/").json()["applications"]["chat"]
    (deployment,) = told["deployments"].values()
    options = deployment["deployment_config"]
    assert {name: options[name] for name in IMPATIENT["chat"]} == IMPATIENT["chat"]
    (one,) = deployment["replicas"]  # the first one: none was given up
    assert one["pid"] == replica(stack, "chat").pid
    assert stack.log.read_text(errors="replace").count("failed on Ray") == 0


@pytest.mark.skipif(ray_python() is None, reason=NO_RAY)
def test_a_head_without_a_gpu_plans_a_bundle_for_each_rank() -> None:
    code = (
        "import json, ray, types, vllm.platforms\n"
        "from vllm.platforms.interface import UnspecifiedPlatform\n"
        "vllm.platforms._current_platform = UnspecifiedPlatform()  # as on such a machine\n"
        "ray.get_runtime_context = lambda: types.SimpleNamespace(runtime_env={})\n"
        "from services.ray.config import serve_config\n"
        "from services.ray.chat import build\n"
        "chat = serve_config()['applications'][0]\n"
        "made = build(chat['args'])._bound_deployment._replica_config\n"
        "print(json.dumps(made.placement_group_bundles))\n"
    )
    made = subprocess.run(
        [str(ray_python()), "-c", code],
        cwd=ROOT,
        env={
            **os.environ,
            "BENTOVOX_CHAT__DEVICE": "cuda",
            "ACCELERATOR_TYPE": "H100",
            "TENSOR_PARALLEL_SIZE": "2",
            "PIPELINE_PARALLEL_SIZE": "2",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    first, *others = json.loads(made.stdout.splitlines()[-1])
    assert others == [{"GPU": 1, "accelerator_type:H100": 0.001}] * 3
    assert first == {**others[0], "CPU": 0.2}


def test_without_the_token_ray_tells_nothing(stack: Server) -> None:
    for token in ("", "x" * 32):
        for path in ("/api/serve/applications/", "/api/jobs/", "/nodes?view=summary"):
            assert ray(stack, path, token).status_code in {401, 403}


def test_a_websocket_goes_through_to_a_replica(stack: Server) -> None:
    url = stack.url.replace("http", "ws") + "/v1/audio/speech/stream"
    with connect(url, proxy=None, max_size=None) as socket:
        config = {"voice": "alloy", "response_format": "pcm", "stream_audio": True}
        socket.send(json.dumps({"type": "session.config", **config}))
        socket.send(json.dumps({"type": "input.text", "text": "Hello. "}))
        socket.send(json.dumps({"type": "input.done"}))
        audio, event = b"", ""
        while event != "session.done":
            data = socket.recv(timeout=30)
            if isinstance(data, bytes):
                audio += data
            else:
                event = json.loads(data)["type"]
                assert event != "error"
    assert len(audio) > 10_000


def test_overload_is_answered_whole_or_refused_properly(
    stack: Server, plain: dict[str, str]
) -> None:
    answers = flood(stack, "/v1/chat/completions", story(), 300)
    for answer in answers:
        if answer.status_code == 200:
            assert answer.json()["choices"][0]["message"]["content"] == plain[STORY]
        else:
            expect_refusal(answer, 128)
    assert {answer.status_code for answer in answers} == {200, 429}


def test_a_wrong_path_ends_nothing(stack: Server) -> None:
    before = replica(stack, "speech").pid
    said = command(stack, "deploy", "wrong/path.yaml")
    assert said.returncode == 1
    assert said.stderr.startswith("bentovox: wrong/path.yaml: ")
    assert replica(stack, "speech").pid == before
    assert post(stack, "/v1/audio/speech", SAY).status_code == 200


def test_an_update_starts_the_new_replica_first_and_loses_no_request(stack: Server) -> None:
    before = {role: replica(stack, role).pid for role in ("chat", "speech")}
    statuses: list[int] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            statuses.append(post(stack, "/v1/audio/speech", SAY).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        said = command(stack, "deploy", BENTOVOX_SPEECH__SLOTS="3")
        assert said.returncode == 0, said.stderr
        eventually(
            lambda: (
                [one.pid for one in replicas(stack, "speech")] != [before["speech"]]
                and len(replicas(stack, "speech")) == 1
            ),
            _BACK_S,
            "the new replica alone",
        )
    finally:
        done.set()
        asking.join()
    assert set(statuses) == {200}
    assert len(statuses) > 10
    assert replica(stack, "chat").pid == before["chat"]  # what is unchanged stays


def test_a_killed_engine_brings_a_new_replica_while_speech_serves_on(
    stack: Server, plain: dict[str, str]
) -> None:
    (engine,) = (
        one
        for one in replica(stack, "chat").children(recursive=True)
        if "EngineCore" in "".join(one.cmdline())
    )
    engine.kill()
    assert post(stack, "/v1/audio/speech", SAY).status_code == 200

    def answers() -> bool:
        with suppress(httpx.HTTPError):
            answer = post(stack, "/v1/chat/completions", HELLO)
            if answer.status_code == 200:
                assert answer.json()["choices"][0]["message"]["content"] == plain["Hello"]
                return True
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        return False

    eventually(answers, _BACK_S, "a new replica answers")


def test_only_ports_that_ask_for_the_token_listen_beyond_this_machine(stack: Server) -> None:
    """Ray Serve gives each replica one, for gRPC; tests/e2e/test_ray_machines.py asks it."""

    def wanted() -> list[int]:
        return sorted(one.pid for role in ROLES for one in replicas(stack, role))

    eventually(lambda: beyond(stack) == wanted(), 30, "one for each replica")


def beyond(stack: Server) -> list[int]:
    """Return the process of each port that listens on more than loopback."""
    found = []
    for process in stack.processes():
        with suppress(psutil.Error):
            found += [
                process.pid
                for one in process.net_connections("tcp")
                if one.status == psutil.CONN_LISTEN and not is_loopback(one.laddr.ip)
            ]
    return sorted(found)


def is_loopback(listed: str) -> bool:
    address = ipaddress.ip_address(listed)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def test_at_the_end_no_process_is_left(stack: Server) -> None:
    assert len(stack.processes()) > 5
    stack.process.send_signal(signal.SIGTERM)
    stack.process.wait(120)
    eventually(lambda: not stack.processes(), 30, "all have ended")
