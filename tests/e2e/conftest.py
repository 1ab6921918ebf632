"""One stack for most end-to-end tests, started as in the README."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.server import ROOT, Server, need_stack
from tests.whisper import trained

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import openai


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    need_stack(items, ROOT / "tests" / "e2e")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the logs and caches of every server."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def stack(home: Path) -> Iterator[Server]:
    model = str(trained())
    with Server(
        home, BENTOVOX_PROFILE="demo", BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL=model
    ) as server:
        yield server


@pytest.fixture
def client(stack: Server) -> Iterator[openai.OpenAI]:
    with stack.client() as client:
        yield client


@pytest.fixture(scope="session")
def answers() -> list[dict[str, Any]]:
    """The exact greedy answers that the demo model holds by heart."""
    path = ROOT / "services" / "chat" / "demo_model" / "answers.json"
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="session")
def plain(answers: list[dict[str, Any]]) -> dict[str, str]:
    """Question to answer, for all that are asked alone and answered in words."""
    return {
        entry["messages"][0]["content"]: entry["expected"]["content"]
        for entry in answers
        if len(entry["messages"]) == 1 and {"messages", "expected"} == set(entry)
    }
