"""Measure the front door and its peers on this machine: `nox -s bench`.

`nox -s bench -- cosyvoice` measures CosyVoice instead, `-- transcription` faster-whisper,
`-- images` the images, each into a page of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import chat, cosyvoice, images, report, speech, transcription
from benchmarks.servers import ROOT, all_servers


def main() -> int:
    """Start all servers, measure, write the report, stop them."""
    if sys.argv[1:2] == ["cosyvoice"]:
        return cosyvoice.main(sys.argv[2:])
    if sys.argv[1:2] == ["transcription"]:
        return transcription.main(sys.argv[2:])
    if sys.argv[1:2] == ["images"]:
        return images.main(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the chat measurement")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where the report goes")
    options = parser.parse_args()
    stack_python = os.environ.get("STACK_PYTHON")
    if not stack_python:
        sys.exit(
            "STACK_PYTHON is not set: run `nox -s bench`, which builds the stack's environment"
        )
    servers = all_servers(stack_python)
    stack = next(server for server in servers if server.name == "Bentovox stack")
    try:
        print("starting", flush=True)
        for server in servers:
            server.start()
        lines = chat.measure(servers, options.rounds)
        memory_mib = stack.memory_mib()
        firsts = speech.measure(stack_python, stack)
        ready_s = {server.name: server.ready_s for server in servers}
    finally:
        for server in servers:
            server.stop()
    options.out.mkdir(parents=True, exist_ok=True)
    report.write(
        options.out,
        chat=lines,
        speech=firsts,
        relay=_relay(stack_python),
        ready_s=ready_s,
        memory_mib=memory_mib,
        environment_mib=_size_mib(Path(stack_python).parents[1]),
        rounds=options.rounds,
    )
    print((options.out / "benchmarks.md").read_text(encoding="utf-8"))
    return 0


def _relay(stack_python: str) -> dict[str, float]:
    """Measure one hop in the stack's environment, which has what the gateway needs."""
    done = subprocess.run(
        [stack_python, "-m", "benchmarks.relay", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def _size_mib(folder: Path) -> float:
    return sum(f.lstat().st_size for f in folder.rglob("*") if f.is_file()) / (1 << 20)


if __name__ == "__main__":
    sys.exit(main())
