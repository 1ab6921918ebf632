"""A server under test: a real process, its log and its children, which always ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
import openai
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.ports import free_port
from tests.whisper import trained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ROOT = Path(__file__).parents[2]
STACK = "services.stack:Stack"
ON_RAY = "services.ray"
MODEL = "bentovox-demo"

_MARK = "E2E_SERVER"  # inherited by whatever a server starts
_READY_S = 150.0
_READY_ON_RAY_S = 450.0  # Ray's head, then vLLM imported twice: to plan chat's replica, and in it
_END_S = 45.0
_TEST_S = 600  # one starts a server, or waits until one is back; the first one trains Whisper


def stack_python() -> Path | None:
    """Return the Python of the environment that is served, None where there is none."""
    return _python("stack")


def cosyvoice_python() -> Path | None:
    """Return the Python of the environment that has what upstream's CosyVoice code imports."""
    return _python("cosyvoice")


def ray_python() -> Path | None:
    """Return the Python of the environment that has Ray beside the stack."""
    return _python("ray")


def clients_python() -> Path | None:
    """Return the Python of the environment with clients that are no part of the tests' own."""
    return _python("clients")


def _python(name: str) -> Path | None:
    given = os.environ.get(f"{name.upper()}_PYTHON")
    path = Path(given) if given else _in_nox(name)
    return path if path.exists() else None


def _in_nox(name: str) -> Path:
    return ROOT / ".nox" / name / "bin" / "python"


def need_stack(items: Iterable[pytest.Item], folder: Path) -> list[pytest.Item]:
    """Return the tests of a folder; give them time for a server, and skip them without a stack."""
    ours = [item for item in items if item.path.is_relative_to(folder)]
    for item in ours:
        item.add_marker(pytest.mark.timeout(_TEST_S))
        if stack_python() is None:
            reason = "no stack to serve: STACK_PYTHON is unset, no .nox/stack"
            item.add_marker(pytest.mark.skip(reason=reason))
    return ours


def eventually(check: Callable[[], Any], within_s: float, what: str) -> float:
    """Wait until `check()` is true; fail with `what` after the deadline. Returns the seconds."""
    began = time.monotonic()
    while not check():
        assert time.monotonic() - began < within_s, f"not within {within_s:g} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - began


def sample(url: str, name: str, **labels: str) -> float:
    """Return the sum of the samples of a server's metric that have these labels."""
    answer = httpx.get(f"{url}/metrics", timeout=10)
    return sum(
        one.value
        for family in text_string_to_metric_families(answer.text)
        for one in family.samples
        if one.name == name and labels.items() <= one.labels.items()
    )


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a server: nobody's settings but ours, caches of the test run."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BENTOVOX_", "BENTOML_")) and name != "PYTHONDONTWRITEBYTECODE"
    }
    return {
        **kept,
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(home / "bentoml"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "BENTOVOX_SPEECH__ENGINE": "espeak",  # whose voice models that tests make understand
        **more,
    }


def serve_command(service: str, port: int, python: Path | None = None) -> list[str]:
    """Return the command: the README's where it would serve this environment, else its inside."""
    python = python or (ray_python() if service == ON_RAY else stack_python())
    assert python is not None
    if service == ON_RAY:
        return [str(python), "-m", service, "--port", str(port)]
    if service == STACK and python == _in_nox("stack") and find_spec("nox"):
        return [sys.executable, "-m", "nox", "-s", "serve", "--", "--port", str(port)]
    return [str(python), "-m", "bentoml", "serve", service, "--port", str(port)]


class Server:
    """A running server: a context manager that leaves no process behind."""

    def __init__(
        self,
        home: Path,
        service: str = STACK,
        *,
        python: Path | None = None,
        port: int | None = None,
        ready_as: str = "ready",
        **settings: str,
    ) -> None:
        """Start it; `ready_as` is the status to wait for on entering."""
        self._ready_as = ready_as
        self._ready_s = _READY_ON_RAY_S if service == ON_RAY else _READY_S
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = home / f"{service.rpartition(':')[2]}-{self.port}.log"
        if not any(name.startswith("BENTOVOX_TRANSCRIPTION__") for name in settings):
            settings["BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL"] = str(trained())
        self.settings = settings
        self._mark = uuid.uuid4().hex
        self._seen: set[psutil.Process] = set()
        self._open = self.log.open("wb")
        self.process = subprocess.Popen(
            serve_command(service, self.port, python),
            cwd=ROOT,
            env=environment(home, **settings, **{_MARK: self._mark}),
            stdin=subprocess.DEVNULL,
            stdout=self._open,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        try:
            self.wait_ready(self._ready_s)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def wait_ready(self, within_s: float = _READY_S) -> None:
        """Wait until it is as it should be; fail with the log's tail when the process ends."""
        deadline = time.monotonic() + within_s
        while self.status() != self._ready_as:
            assert self.process.poll() is None, f"the server ended:\n{self.tail()}"
            assert time.monotonic() < deadline, (
                f"not {self._ready_as} in {within_s:g} s:\n{self.tail()}"
            )
            time.sleep(0.1)
        self.processes()  # remember them

    def status(self) -> str:
        """Return what /readyz says; empty where nobody answers."""
        try:
            return str(httpx.get(f"{self.url}/readyz", timeout=5).json()["status"])
        except (httpx.HTTPError, ValueError):
            return ""

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-60:])

    def processes(self) -> list[psutil.Process]:
        """Return the living processes that this server ever started, as far as seen."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self._mark:
                    self._seen.add(process)
        for process in list(self._seen):
            with contextlib.suppress(psutil.Error):
                self._seen.update(process.children(recursive=True))
        return [process for process in self._seen if _alive(process)]

    def worker(self, role: str) -> psutil.Process:
        """Return the worker of a role: bentovox (the front door), chat, speech, transcription."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                if "--service-name" in line and line[line.index("--service-name") + 1] == role:
                    return process
        raise AssertionError(f"no worker of {role}:\n{self.tail()}")

    def engine(self) -> psutil.Process:
        """Return vLLM's engine process, a child of the chat worker."""
        for process in self.worker("chat").children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "EngineCore" in " ".join(process.cmdline()):
                    return process
        raise AssertionError(f"no engine:\n{self.tail()}")

    def sample(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        return sample(self.url, name, **labels)

    @contextlib.contextmanager
    def client(self, key: str = "none", *, max_retries: int = 0) -> Iterator[openai.OpenAI]:
        with openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=key, max_retries=max_retries, timeout=60
        ) as client:
            yield client

    def end(self) -> None:
        """End every process, gently first; say so if one had to be killed."""
        family = self.processes()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_S)
        _, left = psutil.wait_procs(
            [process for process in {*family, *self.processes()} if _alive(process)], timeout=5
        )
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        self._open.close()


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
