"""What is measured, as processes: servers that listen, and workers that take lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from tests.ports import free_port

C = TypeVar("C")
T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
_READY_S = 180
_END_S = 40
_ANSWER_S = 300.0

# The demo profile's, and the same for each server that is measured.
_ENVIRONMENT = {
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "OMP_NUM_THREADS": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "BENTOVOX_LOG__ACCESS": "false",
    "BENTOVOX_SPEECH__ENGINE": "espeak",
}


def python(variable: str = "STACK_PYTHON") -> str:
    """Return the Python of another environment, which nox names; end if it does not."""
    if found := os.environ.get(variable):
        return found
    sys.exit(f"{variable} is not set: run `nox -s bench`, which makes that environment")


def in_turn(
    contestants: Mapping[str, Callable[[C, int], T]], cases: Iterable[C], rounds: int
) -> dict[C, dict[str, list[T]]]:
    """Return everyone's turns by case: one in each round, after a round that only warms up.

    So a ratio compares what ran within seconds, and nobody is always the first, or always after the
    same one. Each is told the case and the round's number.
    """
    names = list(contestants)
    made: dict[C, dict[str, list[T]]] = {}
    for case in cases:
        made[case] = {name: [] for name in names}
        for number in range(rounds + 1):
            shift = number % len(names)
            for name in [*names[shift:], *names[:shift]]:
                turn = contestants[name](case, number)
                if number:
                    made[case][name].append(turn)
            print(f"  {case}: round {number} of {rounds} done", file=sys.stderr, flush=True)
    return made


@contextlib.contextmanager
def running(*processes: Server | Worker) -> Iterator[None]:
    """Start processes, one after the other, and stop them all at the end."""
    with contextlib.ExitStack() as stack:
        for process in processes:
            stack.callback(process.stop)
            process.start()
        yield


def told(python: str, *arguments: str) -> Any:
    """Run a program of another environment and return the JSON that it prints."""
    return json.loads(subprocess.check_output([python, *arguments], cwd=ROOT))


@dataclass
class Server:
    """A server in a process of its own, its descendants included."""

    name: str
    command: list[str]
    port: int
    health: str = "/readyz"
    environment: dict[str, str] = field(default_factory=dict)
    door: str = ""  # part of the command of the process that relays
    ready_s: float = 0.0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it is ready; end with its log's name if it fails."""
        began = time.monotonic()
        log = _log(f"{self.name}-{self.port}")
        environment = {**os.environ, **_ENVIRONMENT, **self.environment}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # vLLM would start three times slower
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
        print(f"  {self.name}: ready in {self.ready_s:.1f} s", file=sys.stderr, flush=True)

    def stop(self) -> None:
        """End it and all that it started."""
        if self._process is None:
            return
        family = self.processes()
        self._process.terminate()
        _, alive = psutil.wait_procs(family, timeout=_END_S)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._process = None

    def processes(self) -> list[psutil.Process]:
        """Return its process and the descendants; none once it has ended."""
        try:
            top = psutil.Process(self._process.pid if self._process else None)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def named(self) -> list[tuple[str, psutil.Process]]:
        """Return its processes with what each is: a role, vLLM's engine, what BentoML adds."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                line = process.cmdline()
                name = "resource tracker" if "resource_tracker" in " ".join(line) else "supervisor"
                if "EngineCore" in " ".join(line):
                    name = "vLLM engine"
                elif "--service-name" in line:
                    name = line[line.index("--service-name") + 1].replace("bentovox", "gateway")
                found.append((name, process))
        return found

    def get(self, path: str) -> bytes:
        """Return what it answers; OSError if it does not, or not with 200."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:  # noqa: S310
            body: bytes = answer.read()
        return body

    def spent_s(self, part: str = "") -> float:
        """Return the processor time of its processes so far, of those with `part` in the command.

        A process that has ended counts no more.
        """
        spent_s = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if part in " ".join(process.cmdline()):
                    times = process.cpu_times()
                    spent_s += times.user + times.system
        return spent_s

    def memory_mib(self) -> float:
        """Return what its processes hold, shared pages counted once."""
        return sum(one.memory_full_info().pss for one in self.processes()) / 2**20

    def _answers(self) -> bool:
        try:
            self.get(self.health)
        except OSError:
            return False
        return True


class Service(Server):
    """What BentoML serves on a free port: by default the role `name`, with `settings`."""

    def __init__(self, name: str, python: str, service: str = "", **settings: str) -> None:
        port = free_port()
        service = service or f"services.{name}.service:{name.capitalize()}"
        command = [python, "-m", "bentoml", "serve", service, f"--port={port}"]
        super().__init__(name, command, port, environment=settings)


class Worker:
    """A process that answers each line of JSON with one; see `benchmarks.peers.turns`."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.patience_s = _ANSWER_S  # after which it is killed
        self.log = _log(f"{name}-{os.getpid()}")  # of what it wrote to standard error
        self._command = command
        self._environment = {**os.environ, **(environment or {})}
        self._process: Any = None

    def start(self) -> None:
        """Start it and wait until it can begin."""
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._answer()

    def ask(self, asked: object) -> Any:
        """Return its answer."""
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return self._answer()

    def stop(self) -> None:
        """End it, the hard way if its threads hang."""
        if self._process is None:
            return
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> Any:
        # A stream of upstream's CosyVoice never ends when its token thread failed.
        too_long = threading.Timer(self.patience_s, self._process.kill)
        too_long.start()
        line = self._process.stdout.readline()
        too_long.cancel()
        if not line:
            raise RuntimeError(f"{self.name} ended; see {self.log}")
        return json.loads(line)


def _log(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"bentovox-bench-{name}.log"
