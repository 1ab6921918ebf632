"""The servers under measurement: how each is started, and when it is ready."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
DEMO_MODEL = ROOT / "services" / "chat" / "demo_model"
NAME = "bentovox-demo"
_READY_S = 180
_END_S = 40

# The demo profile's, and the same for each server that is measured.
VLLM_ENVIRONMENT = {
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "BENTOVOX_LOG__ACCESS": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MASTER_KEY": "sk-bench",  # it starts with a key only; the load generator sends it
}


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def vllm_command(python: str, port: int) -> list[str]:
    """Return plain vLLM's command; `vllm serve` is this module behind another name."""
    # fmt: off
    return [
        python, "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(DEMO_MODEL), "--served-model-name", NAME,
        "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "float32", "--max-model-len", "2048", "--kv-cache-memory-bytes", "64M",
        "--enforce-eager", "--distributed-executor-backend", "uni",
        "--enable-auto-tool-choice", "--tool-call-parser", "hermes",
        "--shutdown-timeout", "20", "--disable-uvicorn-access-log",
    ]
    # fmt: on


@dataclass
class Server:
    """One running server."""

    name: str
    command: list[str]
    port: int
    health: str
    environment: dict[str, str] = field(default_factory=dict)
    ready_s: float = 0.0
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; its output goes to a file named in the error if it fails."""
        log = Path(tempfile.gettempdir()) / f"bentovox-bench-{self.name}-{self.port}.log"
        environment = {**os.environ, **VLLM_ENVIRONMENT, **self.environment}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        began = time.monotonic()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() - began > _READY_S:
                self.stop()
                sys.exit(f"{self.name} did not start; see {log}")
            time.sleep(0.1)
        self.ready_s = time.monotonic() - began
        print(f"  {self.name}: ready in {self.ready_s:.1f} s", flush=True)

    def stop(self) -> None:
        """End the process and all it started."""
        if self._process is None:
            return
        family = self.processes()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(family, timeout=_END_S)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._process = None

    def processes(self) -> list[psutil.Process]:
        """Return the process and its descendants."""
        assert self._process is not None  # noqa: S101
        try:
            top = psutil.Process(self._process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def memory_mib(self) -> dict[str, float]:
        """Return the resident memory of each process, MiB, by what it is."""
        return {
            _what(process): process.memory_info().rss / (1 << 20) for process in self.processes()
        }

    def _answers(self) -> bool:
        url = f"http://127.0.0.1:{self.port}{self.health}"
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def _what(process: psutil.Process) -> str:
    line = process.cmdline()
    text = " ".join(line)
    if "EngineCore" in text:
        return "vLLM engine"
    if "--service-name" in line:
        name = line[line.index("--service-name") + 1]
        return {"bentovox": "gateway", "chat": "chat service", "speech": "speech service"}.get(
            name, name
        )
    if "resource_tracker" in text:
        return "resource tracker"
    return "supervisor" if "circus" in text or "bentoml" in text else Path(line[0]).name


def all_servers(stack_python: str) -> list[Server]:
    """Return plain vLLM first, then ours, then the peers."""
    ports = {name: free_port() for name in ("plain", "chat", "stack", "litellm", "command", "own")}
    bentoml = [stack_python, "-m", "bentoml", "serve"]
    plain = Server(
        "plain vLLM", vllm_command(stack_python, ports["plain"]), ports["plain"], "/health"
    )
    config = Path(tempfile.mkdtemp()) / "litellm.yaml"
    config.write_text(
        json.dumps(
            {
                "model_list": [
                    {
                        "model_name": NAME,
                        "litellm_params": {
                            "model": f"hosted_vllm/{NAME}",
                            "api_base": f"http://127.0.0.1:{ports['plain']}/v1",
                            "api_key": "none",
                        },
                    }
                ],
                "litellm_settings": {"drop_params": False, "telemetry": False},
            }
        )
    )
    return [
        plain,
        Server(
            "Bentovox chat",
            [*bentoml, "services.chat.service:Chat", "--port", str(ports["chat"])],
            ports["chat"],
            "/readyz",
        ),
        Server(
            "Bentovox stack",
            [*bentoml, "services.stack:Stack", "--port", str(ports["stack"])],
            ports["stack"],
            "/readyz",
        ),
        Server(
            "BentoML __command__",
            [
                *bentoml,
                "benchmarks.peers.command_proxy:CommandProxy",
                "--port",
                str(ports["command"]),
            ],
            ports["command"],
            "/health",
            {
                "PEER_VLLM_PORT": str(ports["own"]),
                "PEER_VLLM_COMMAND": json.dumps(vllm_command(stack_python, ports["own"])),
            },
        ),
        Server(
            "LiteLLM proxy",
            [
                str(Path(sys.executable).with_name("litellm")),
                *("--config", str(config), "--host", "127.0.0.1"),
                *("--port", str(ports["litellm"])),
            ],
            ports["litellm"],
            "/health/liveliness",
        ),
    ]
