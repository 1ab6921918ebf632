"""A running container of an image, hardened as all of ours must be able to run."""

from __future__ import annotations

import http.client
import io
import json
import time
import uuid
import wave
from typing import TYPE_CHECKING, Any, Final, Self

from ci import docker
from ci.errors import CiError
from ci.terminal import say

if TYPE_CHECKING:
    from pathlib import Path

    from ci.specs import Spec

HARDENED: Final = (
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--tmpfs=/tmp:size=1g,exec",  # Triton loads a module from there
    "--pids-limit=2048",
)
"""The options with which every image must be able to run."""

BACKEND: Final = "http://127.0.0.1:3999"
BACKEND_CODE: Final = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Backend(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"object": "list", "data": [], "status": "ready"}'
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
HTTPServer(("127.0.0.1", 3999), Backend).serve_forever()
"""
"""A backend that is always ready, in the same container: a role that asks others waits for one."""

ASKING: Final = {
    "gateway": "BENTOVOX_GATEWAY__SPEECH",
    "conversation": "BENTOVOX_CONVERSATION__CHAT",
}
MODEL: Final = "/models/given"

_READY_S: Final = 120.0
_END_S: Final = 60


class Container:
    """A running container of an image, hardened, on a free port of loopback; removed at the end."""

    def __init__(self, image: str, *more: str, gpu: bool = False, **settings: str) -> None:
        """Start it; `more` are further options of `docker run`, `settings` its environment."""
        self.name = f"bentovox-test-{uuid.uuid4().hex[:8]}"
        docker.call(
            *("run", "--detach", f"--name={self.name}", *HARDENED, *more),
            *(("--gpus=all",) if gpu else ()),
            "--publish=127.0.0.1::3000",
            *docker.variables(settings, "--env"),
            image,
        )

    def __enter__(self) -> Self:
        """Return it, started."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        docker.ask("rm", "--force", "--volumes", self.name)

    @property
    def port(self) -> int:
        """Return the port of loopback that leads to its server."""
        return int(docker.call("port", self.name, "3000/tcp").rpartition(":")[2])

    @property
    def health(self) -> str:
        """Return what docker says of its health: starting, healthy or unhealthy."""
        return docker.call("inspect", "--format={{.State.Health.Status}}", self.name)

    def exec(self, *words: str) -> str | None:
        """Run a command in it and return what it prints, None where it fails."""
        return docker.ask("exec", self.name, *words)

    def logs(self) -> str:
        """Return what it wrote."""
        return docker.call("logs", self.name)

    def wait(self, health: str, within_s: float = _READY_S) -> float:
        """Wait for a state of health and return the seconds.

        Raises:
            CiError: it did not come, or the container ended; its last lines were printed.
        """
        began = time.monotonic()
        while self.health != health:
            running = docker.call("inspect", "--format={{.State.Running}}", self.name) == "true"
            if not running or time.monotonic() - began > within_s:
                for line in self.logs().splitlines()[-15:]:
                    say(f"    | {line}")
                state = "it ended" if not running else f"not within {within_s:.0f} s"
                raise CiError(f"{self.name} did not turn {health}: {state}")
            time.sleep(0.2)
        return time.monotonic() - began

    def stop(self) -> None:
        """Tell it to end, and check that it does so by itself, without a fault."""
        began = time.monotonic()
        docker.call("stop", f"--timeout={_END_S}", self.name)
        took = time.monotonic() - began
        code = docker.call("inspect", "--format={{.State.ExitCode}}", self.name)
        assert code in {"0", "143"}, f"exit code {code}"
        assert took < _END_S

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> tuple[int, bytes]:
        """Send one request, its body as JSON unless it is bytes; return the status and the body."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            headers = {} if data is None else {"content-type": content_type}
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def settings(spec: Spec, model: Path | None = None) -> dict[str, str]:
    """Return what a bento's container must be told: where its backend is, or its model."""
    if spec.name in ASKING:
        return {ASKING[spec.name]: f'["{BACKEND}"]'}
    return {"BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL": MODEL} if model else {}


def silence() -> bytes:
    """Return a second of silence as wav."""
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(32_000))
    return made.getvalue()
