"""Three replicas of a role behind a gateway: one is killed and all are replaced, under load."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.e2e.server import Server, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPEECH = "services.speech.service:Speech"
GATEWAY = "services.gateway.service:Gateway"
TEXT = "The quick brown fox jumps over the lazy dog, and then it does so again. " * 12
DRAIN = {"BENTOVOX_DRAIN_S": "3"}
_CALLERS = 4
_SOON_S = 30.0


@dataclass
class Asked:
    """The results of requests, each with its start time."""

    whole: list[float] = field(default_factory=list)
    lost: list[tuple[float, str]] = field(default_factory=list)


@contextmanager
def people(gateway: Server) -> Iterator[Asked]:
    """Ask for speech again and again from several threads."""
    asked = Asked()
    enough = threading.Event()

    def one(number: int) -> None:
        body = {"model": "tts-1", "voice": "alloy", "input": TEXT, "response_format": "pcm"}
        headers = {"x-session-id": str(number)}
        while not enough.is_set():
            began = time.monotonic()
            try:
                answer = httpx.post(
                    f"{gateway.url}/v1/audio/speech", json=body, headers=headers, timeout=60
                )
                answer.raise_for_status()
            except httpx.HTTPError as error:
                asked.lost.append((began, repr(error)))
            else:
                asked.whole.append(began)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(_CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield asked
    finally:
        enough.set()
        for thread in threads:
            thread.join()


def served(gateway: Server) -> int:
    """Return how many backends can answer."""
    return round(gateway.sample("bentovox_backends", asked="speech", state="ready"))


def work_goes_on(asked: Asked) -> None:
    before = len(asked.whole)
    eventually(lambda: len(asked.whole) >= before + 2 * _CALLERS, _SOON_S, "requests are answered")


@pytest.fixture(scope="module")
def replicas(home: Path) -> Iterator[list[Server]]:
    with ExitStack() as stack:
        started = [Server(home, SPEECH, **DRAIN) for _ in range(3)]
        for server in started:
            stack.callback(server.end)
        for server in started:
            server.wait_ready()
        yield started
        for server in started:
            stack.callback(server.end)


@pytest.fixture(scope="module")
def gateway(home: Path, replicas: list[Server]) -> Iterator[Server]:
    urls = json.dumps([server.url for server in replicas])
    with Server(home, GATEWAY, BENTOVOX_GATEWAY__SPEECH=urls) as server:
        eventually(lambda: served(server) == len(replicas), _SOON_S, "all are ready")
        yield server


def test_replicas_are_replaced_one_by_one_and_nothing_is_lost(
    home: Path, gateway: Server, replicas: list[Server]
) -> None:
    with people(gateway) as asked:
        for number, old in enumerate(replicas):
            work_goes_on(asked)
            old.end()
            replicas[number] = new = Server(home, SPEECH, port=old.port, **DRAIN)
            new.wait_ready()
            eventually(lambda: served(gateway) == len(replicas), _SOON_S, "it is back")
        work_goes_on(asked)
    assert asked.lost == []


def test_a_machine_that_dies_takes_no_request_with_it_but_those_it_held(
    gateway: Server, replicas: list[Server]
) -> None:
    with people(gateway) as asked:
        work_goes_on(asked)
        family = replicas[0].processes()
        killed = time.monotonic()
        for process in family:
            process.kill()
        gone = time.monotonic()
        work_goes_on(asked)
        eventually(lambda: served(gateway) == 2, _SOON_S, "it is left out")
    assert all(began < gone for began, _ in asked.lost), (killed, asked.lost)
    assert len(asked.lost) <= _CALLERS
    assert gateway.status() == "ready"
