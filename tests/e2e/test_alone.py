"""Each role serves alone, and the gateway serves roles that run elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.e2e.server import MODEL, ROOT, Server, environment, eventually, stack_python

if TYPE_CHECKING:
    from collections.abc import Iterator

CHAT = "services.chat.service:Chat"
GATEWAY = "services.gateway.service:Gateway"
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
SAY = {"model": "tts-1", "voice": "alloy", "input": "Hello.", "response_format": "wav"}
_CONVERSATIONS = 8
_TURNS = 4
_SOON_S = 30.0


@pytest.fixture(scope="module")
def chats(home: Path) -> Iterator[list[Server]]:
    """Two servers of chat."""
    with ExitStack() as stack:
        started = [Server(home, CHAT) for _ in range(2)]
        for server in started:
            stack.callback(server.end)
        for server in started:
            server.wait_ready()
        yield started


def test_each_role_serves_alone_and_behind_a_gateway_elsewhere(
    home: Path, chats: list[Server], plain: dict[str, str]
) -> None:
    chat = chats[0]
    with (
        Server(home, "services.speech.service:Speech") as speech,
        Server(
            home,
            GATEWAY,
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


def test_a_conversation_finds_its_prompt_where_it_was_cached(
    home: Path, chats: list[Server]
) -> None:
    """vLLM's own counters say so, of two engines."""

    def counted(name: str) -> list[float]:
        return [server.sample(f"vllm:prefix_cache_{name}_total") for server in chats]

    urls = json.dumps([server.url for server in chats])
    with Server(home, GATEWAY, BENTOVOX_GATEWAY__CHAT=urls) as gateway:
        eventually(
            lambda: gateway.sample("bentovox_backends", asked="chat", state="ready") == 2,
            _SOON_S,
            "both are ready",
        )
        before = {name: counted(name) for name in ("queries", "hits")}
        for number in range(_CONVERSATIONS):
            talk = [
                {"role": "user", "content": f"Conversation {number}. " + "Tell me more. " * 200}
            ]
            for _ in range(_TURNS):
                body = {"model": MODEL, "messages": talk, "max_tokens": 8, "temperature": 0}
                answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=60)
                said = answer.json()["choices"][0]["message"]["content"]
                talk += [
                    {"role": "assistant", "content": said},
                    {"role": "user", "content": "Go on."},
                ]
        asked, hits = (
            [now - then for now, then in zip(counted(name), before[name], strict=True)]
            for name in ("queries", "hits")
        )
    assert min(asked) > 0  # both were at work
    # All but the first turn of each, and what did not fill a block of 128 tokens.
    assert sum(hits) > 0.85 * sum(asked) * (_TURNS - 1) / _TURNS


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
