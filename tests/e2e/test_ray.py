"""The stack on Ray Serve: the same answers, replicas that Ray replaces, nothing without a token."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from tests.e2e.server import MODEL, ROOT, environment, eventually, free_port, ray_python
from tests.whisper import trained

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    ray_python() is None, reason="no Ray: RAY_PYTHON is unset, and there is no .nox/ray"
)

HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
SAY = {"model": "tts-1", "voice": "alloy", "input": "Hello.", "response_format": "wav"}
_UP_S = 300.0
_BACK_S = 120.0
_MARK = "RAY_TEST"


class Served:
    """A Ray head with the stack on it."""

    def __init__(self, home: Path) -> None:
        self.port, self.dashboard = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = home / "ray.log"
        self._mark = uuid.uuid4().hex
        self._open = self.log.open("wb")
        self.process = subprocess.Popen(
            [str(ray_python()), "-m", "services.ray", "--port", str(self.port)],
            cwd=ROOT,
            env=environment(
                home,
                PYTHONPATH=str(ROOT),
                BENTOVOX_RAY__DASHBOARD_PORT=str(self.dashboard),
                BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL=str(trained()),
                **{_MARK: self._mark},
            ),
            stdin=subprocess.DEVNULL,
            stdout=self._open,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def status(self) -> str:
        assert self.process.poll() is None, self.log.read_text(errors="replace")[-4000:]
        try:
            return str(httpx.get(f"{self.url}/readyz", timeout=5).json()["status"])
        except (httpx.HTTPError, ValueError):
            return ""

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(_MARK) == self._mark:
                    found.append(process)
            except psutil.Error:
                continue
        return [one for one in found if one.is_running() and one.status() != "zombie"]

    def replica(self, role: str) -> psutil.Process:
        (one,) = (p for p in self.processes() if f"ServeReplica:{role}" in "".join(p.cmdline()))
        return one

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(120)
        finally:
            for process in self.processes():
                process.kill()
            self._open.close()


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Served]:
    one = Served(home)
    try:
        eventually(lambda: one.status() == "ready", _UP_S, "ready")
        yield one
    finally:
        one.end()


def post(served: Served, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{served.url}{path}", json=body, timeout=60)


def test_the_answers_are_those_of_the_stack(served: Served, plain: dict[str, str]) -> None:
    answer = post(served, "/v1/chat/completions", HELLO)
    assert answer.json()["choices"][0]["message"]["content"] == plain["Hello"]
    spoken = post(served, "/v1/audio/speech", SAY)
    assert spoken.content.startswith(b"RIFF")
    heard = httpx.post(
        f"{served.url}/v1/audio/transcriptions",
        files={"file": ("a.wav", spoken.content)},
        data={"model": "whisper-1"},
        timeout=60,
    )
    assert heard.status_code == 200, heard.text
    refused = post(served, "/v1/audio/speech", {**SAY, "voice": "nobody"})
    assert refused.json()["error"]["code"] == "voice_not_found"
    assert len(refused.headers.get_list("x-request-id")) == 1


def test_chat_streams(served: Served) -> None:
    with httpx.stream(
        "POST", f"{served.url}/v1/chat/completions", json={**HELLO, "stream": True}, timeout=60
    ) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert len(lines) > 3
    assert lines[-1] == "data: [DONE]"


def test_without_the_token_ray_tells_nothing(served: Served) -> None:
    for path in ("/api/serve/applications/", "/api/jobs/", "/nodes?view=summary"):
        assert httpx.get(f"http://127.0.0.1:{served.dashboard}{path}").status_code == 401


def test_a_replica_that_dies_is_replaced_and_the_others_serve_on(served: Served) -> None:
    served.replica("speech").kill()
    assert post(served, "/v1/chat/completions", HELLO).status_code == 200

    def speaks() -> bool:
        try:
            return post(served, "/v1/audio/speech", SAY).status_code == 200
        except httpx.HTTPError:
            return False

    eventually(speaks, _BACK_S, "a new replica speaks")


def test_at_the_end_no_process_is_left(served: Served) -> None:
    assert "RAY_AUTH_TOKEN" not in os.environ  # one is made for each run
    assert len(served.processes()) > 5
    served.end()
    eventually(lambda: not served.processes(), 30, "all have ended")
