"""Real processes: a supervisor, a worker that is killed, and its engine, which outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Starts a worker, kills it, starts the next; prints what that one ended.
SUPERVISOR = """
import subprocess, sys
first = subprocess.Popen(
    [sys.executable, "-c", sys.argv[1]],
    stdout=subprocess.PIPE, text=True, start_new_session=True,  # as BentoML's supervisor does
)
engine = first.stdout.readline().strip()
first.kill()
first.wait()
first.stdout.close()
second = subprocess.run(
    [sys.executable, "-c", sys.argv[2]], capture_output=True, text=True, start_new_session=True
)
print(engine, second.stdout.strip(), second.stderr.strip())
"""
# Starts an engine that goes by another name, as vLLM's does.
WORKER = """
import subprocess, sys
from services.processes import end_orphans
assert end_orphans() == []
engine = ["bash", "-c", "exec -a VLLM::EngineCore sleep 60"]
print(subprocess.Popen(engine, stdout=subprocess.DEVNULL).pid, flush=True)
sys.stdin.read()
"""
NEXT = "from services.processes import end_orphans; print(end_orphans())"


def supervise(*workers: str, **environment: str) -> list[str]:
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, *workers],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as supervisor:
        assert supervisor.stdout is not None
        return supervisor.stdout.read().split(maxsplit=1)


def gone(pid: int) -> bool:
    """Tell whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_an_engine_whose_worker_was_killed_is_ended_by_the_next() -> None:
    engine, ended = supervise(WORKER, NEXT)
    assert ended.strip() == f"[{engine}]"
    assert gone(int(engine))


def test_another_supervisors_engine_is_left_alone() -> None:
    engine, ended = supervise(WORKER, "print([])")
    assert ended.strip() == "[]"
    try:
        other, ended = supervise(WORKER, NEXT)
        assert ended.strip() == f"[{other}]"
        assert not gone(int(engine))
    finally:
        os.kill(int(engine), signal.SIGKILL)


def test_the_record_of_a_supervisor_that_has_ended_is_removed(tmp_path: Path) -> None:
    for _ in range(3):
        engine, _ = supervise(WORKER, NEXT, TMPDIR=str(tmp_path))
        assert gone(int(engine))
        assert len([*tmp_path.glob("bentovox-*/chat-*")]) == 1
