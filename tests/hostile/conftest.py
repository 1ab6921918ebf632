"""One stack with default settings, and neighbours that a hostile client must not affect."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.e2e.server import MODEL, ROOT, need_stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.server import Server

_ROUNDS = 15
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
SPEECH = {"model": "tts-1", "voice": "alloy", "input": "Hello.", "response_format": "pcm"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    need_stack(items, ROOT / "tests" / "hostile")


@pytest.fixture(scope="session")
def stack(demo: Server) -> Server:
    return demo


@dataclass
class Neighbours:
    """Clients of /livez, chat (free and guided) and speech; `seen` has latencies in seconds."""

    url: str
    seen: dict[str, list[float]] = field(default_factory=dict)

    def once(self, client: httpx.Client) -> None:
        """Ask each path once.

        Raises:
            AssertionError: one of them was refused.
        """
        for path, body in (
            ("/livez", None),
            ("/v1/chat/completions", CHAT),
            ("/v1/chat/completions?guided", {**CHAT, "structured_outputs": self._choice()}),
            ("/v1/audio/speech", SPEECH),
        ):
            began = time.monotonic()
            answer = client.get(path) if body is None else client.post(path, json=body)
            assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:200]}"
            self.seen.setdefault(path, []).append(time.monotonic() - began)

    def _choice(self) -> dict[str, list[str]]:
        """Return a small grammar that was not compiled before."""
        return {"choice": ["yes", f"no {len(self.seen.get('/livez', ()))}"]}

    def while_(self, attack: Callable[[], None]) -> None:
        """Ask on and on until `attack` returns, and once after that."""
        over = threading.Event()
        failed: list[BaseException] = []

        def run() -> None:
            try:
                with httpx.Client(base_url=self.url, timeout=60) as client:
                    while not over.is_set():
                        self.once(client)
                    self.once(client)
            except BaseException as error:  # noqa: BLE001  raised again below
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            attack()
        finally:
            over.set()
            thread.join()
        if failed:
            raise failed[0]


@pytest.fixture(scope="session")
def bounds(stack: Server) -> dict[str, float]:
    """How long each path may take while a stranger is at work: a multiple of its quiet figure."""
    quiet = Neighbours(stack.url)
    with httpx.Client(base_url=stack.url, timeout=60) as client:
        for _ in range(_ROUNDS):
            quiet.once(client)
    return {path: 3 + 20 * statistics.median(seen) for path, seen in quiet.seen.items()}


@pytest.fixture
def neighbours(stack: Server, bounds: dict[str, float]) -> Iterator[Neighbours]:
    """Fail the test if, while it ran, one of them waited for longer than its bound."""
    found = Neighbours(stack.url)
    yield found
    assert found.seen, "the test let nobody ask"
    for path, seen in found.seen.items():
        assert max(seen) < bounds[path], f"{path} took {max(seen):.1f} s of {bounds[path]:.1f}"
