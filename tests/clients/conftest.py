"""One stack for all clients, a recording, and the table of what works."""

from __future__ import annotations

import json
import wave
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.clients import page
from tests.e2e.server import NOX_STACK, ROOT, Server, stack_python
from tests.whisper import PLAIN, trained

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HERE = ROOT / "tests" / "clients"
PAUSE_S = 0.8
# The first test starts the stack, or trains Whisper.
_TIMEOUT_S = 600


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of clients; the page is checked after them all."""
    missing = pytest.mark.skip(reason=f"no stack to serve: STACK_PYTHON is unset, no {NOX_STACK}")
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    for item in ours:
        item.add_marker(pytest.mark.timeout(_TIMEOUT_S))
        if stack_python() is None:
            item.add_marker(missing)
    items.sort(key=lambda item: item.path == HERE / "test_page.py")
    config.stash[page.CLAIMS] = page.claims_of(ours)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Note how each claim fared."""
    outcome: Any = yield
    report = outcome.get_result()
    claims = item.config.stash.get(page.CLAIMS, {})
    for claim in page.claimed_by(item):
        if report.when == "call" or not report.passed:
            claims[claim].outcomes.append(report.outcome)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the logs and caches of the server."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def stack(home: Path) -> Iterator[Server]:
    settings = {"BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL": str(trained())}
    with Server(home, BENTOVOX_PROFILE="demo", **settings) as server:
        yield server


@pytest.fixture(scope="session")
def question() -> str:
    return "What is Bentovox?"


@pytest.fixture(scope="session")
def answer(question: str) -> str:
    """What the demo model holds by heart."""
    path = ROOT / "services" / "chat" / "demo_model" / "answers.json"
    for entry in json.loads(path.read_text(encoding="utf-8")):
        if [one["content"] for one in entry["messages"]] == [question]:
            return str(entry["expected"]["content"])
    raise AssertionError(question)


@pytest.fixture(scope="session")
def recording(stack: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sentence `PLAIN` as the server says it, between silences: 16-bit mono wav."""
    with stack.client() as client:
        answer = client.audio.speech.create(
            model="tts-1", voice="echo", input=PLAIN, response_format="pcm"
        )
        samples = np.frombuffer(answer.read(), dtype=np.int16)
    loud = np.flatnonzero(np.abs(samples) > 600)
    samples = samples[loud[0] : loud[-1]]
    path = tmp_path_factory.mktemp("recording") / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 24_000, 0, "NONE", ""))
        silence = np.zeros(int(PAUSE_S * 24_000), dtype=np.int16)
        file.writeframes(np.concatenate([silence, samples, silence]).tobytes())
    return path
