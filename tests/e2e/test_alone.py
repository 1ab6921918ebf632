"""Each role serves alone, and the gateway serves roles that run elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.e2e.server import ROOT, Server, environment, stack_python

HELLO = {"model": "bentovox-demo", "messages": [{"role": "user", "content": "Hello"}]}
SAY = {"model": "tts-1", "voice": "alloy", "input": "Hello.", "response_format": "wav"}


def test_each_role_serves_alone_and_behind_a_gateway_elsewhere(
    home: Path, plain: dict[str, str]
) -> None:
    with (
        Server(home, "services.speech.service:Speech") as speech,
        Server(home, "services.chat.service:Chat") as chat,
        Server(
            home,
            "services.gateway.service:Gateway",
            BENTOVOX_GATEWAY__CHAT=f'["{chat.url}"]',
            BENTOVOX_GATEWAY__SPEECH=f'["{speech.url}"]',
        ) as gateway,
    ):
        for server in (chat, gateway):
            answer = httpx.post(f"{server.url}/v1/chat/completions", json=HELLO, timeout=30)
            assert answer.json()["choices"][0]["message"]["content"] == plain["Hello"]
        for server in (speech, gateway):
            answer = httpx.post(f"{server.url}/v1/audio/speech", json=SAY, timeout=30)
            assert answer.content.startswith(b"RIFF")
        assert httpx.post(f"{speech.url}/v1/chat/completions", json=HELLO).status_code == 404
        assert httpx.post(f"{chat.url}/v1/audio/speech", json=SAY).status_code == 404


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run bentoml with every import told on stderr; uv is on the path, as the README has it."""
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [str(stack_python()), "-m", "bentoml", *arguments],
        cwd=ROOT,
        env=environment(home, PYTHONPROFILEIMPORTTIME="1", PATH=tools),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def imported(stderr: str) -> set[str]:
    return {line.rpartition("|")[2].strip() for line in stderr.splitlines() if "|" in line}


def test_building_the_bento_imports_no_engine(home: Path) -> None:
    done = run(home, "build", "--output", "tag")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "bentovox:" in done.stdout
    loaded = imported(done.stderr)
    assert "services.chat.service" in loaded
    assert not loaded & {"torch", "vllm", "transformers", "espeakng_loader"}


def test_help_is_quick_and_imports_no_engine(home: Path) -> None:
    began = time.monotonic()
    done = run(home, "serve", "--help")
    assert time.monotonic() - began < 20
    assert done.returncode == 0
    assert not imported(done.stderr) & {"torch", "vllm", "transformers"}
