"""One stack for all clients, a recording, and the table of results."""

from __future__ import annotations

import wave
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.clients import page
from tests.e2e.conftest import answers, plain  # noqa: F401  fixtures
from tests.e2e.server import ROOT, need_stack
from tests.whisper import PLAIN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.server import Server

HERE = ROOT / "tests" / "clients"
PAUSE_S = 0.8


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of clients; the page is checked after them all."""
    ours = need_stack(items, HERE)
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
def stack(demo: Server) -> Server:
    return demo


@pytest.fixture(scope="session")
def question() -> str:
    return "What is Bentovox?"


@pytest.fixture(scope="session")
def answer(question: str, plain: dict[str, str]) -> str:  # noqa: F811
    """What the demo model holds by heart."""
    return plain[question]


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
