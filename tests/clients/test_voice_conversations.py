"""Live conversations: OpenAI's SDKs, and the realtime services of LiveKit and Pipecat.

Each has a function called and its result answered aloud; speaks, and is understood and answered;
and speaks while an answer plays, of which the server then keeps what was heard.
"""

from __future__ import annotations

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.driving import HERE, Told, drive, javascript, openai_2, python
from tests.clients.test_sdks import BEFORE, NEWEST, NODE
from tests.clients.test_voice_agents import LIVEKIT, PIPECAT
from tests.whisper import PLAIN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from tests.e2e.server import Server

SDK = "drive_openai_realtime.py"
works = pytest.mark.works


@pytest.fixture(scope="module")
def given(stack: Server, recording: Path) -> tuple[str, str]:
    return stack.url, str(recording)


@pytest.fixture(scope="module")
def both(given: tuple[str, str]) -> Iterator[dict[str, Future[Told]]]:
    """What LiveKit and Pipecat tell: their sound takes its time, so they talk side by side."""
    with ThreadPoolExecutor() as pool:
        yield {
            name: pool.submit(python, f"drive_{name}_realtime.py", *given)
            for name in ("livekit", "pipecat")
        }


@pytest.fixture
def livekit(both: dict[str, Future[Told]]) -> Told:
    return both["livekit"].result()


@pytest.fixture
def pipecat(both: dict[str, Future[Told]]) -> Told:
    return both["pipecat"].result()


def expect_cut(whole: str, kept: str) -> None:
    """What was heard is the beginning, in whole words."""
    assert whole.startswith(kept + " "), (whole, kept)


def expect_conversation(told: Told) -> None:
    called = told["function"]
    assert (called["arguments"], called["answer"]) == ({"a": 0, "b": 3}, "0 plus 3 is 3.")
    assert called["sound_s"] > 1
    spoken = told["conversation"]
    assert spoken["heard"] == [PLAIN] * 2
    expect_cut(spoken["answer"], spoken["kept"])
    assert spoken["sound_s"] > 1


@works(NEWEST, "live conversations with functions and interruptions")
def test_the_newest_python_sdk_converses(given: tuple[str, str]) -> None:
    expect_conversation(drive([sys.executable, str(HERE / "python" / SDK), *given]))


@works(BEFORE, "live conversations with functions and interruptions")
def test_the_python_sdk_before_converses(given: tuple[str, str]) -> None:
    expect_conversation(openai_2(SDK, *given))


@works(NODE, "live conversations with functions and interruptions, over TLS")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate")
def test_the_javascript_sdk_converses(given: tuple[str, str], tmp_path: Path) -> None:
    expect_conversation(javascript("openai_realtime.mjs", tmp_path, *given))


@works(LIVEKIT, "live conversations: functions")
def test_livekits_realtime_model_calls_a_function(livekit: Told) -> None:
    called = livekit["function"]
    assert called["errors"] == []
    assert called["arguments"] == {"a": 0, "b": 3}
    assert called["said"] == [["0 plus 3 is 3.", False]]
    ((played_s, interrupted),) = called["played"]
    assert played_s > 1
    assert not interrupted


@works(LIVEKIT, "live conversations: turns by `semantic_vad`, interruptions")
def test_livekits_realtime_model_is_interrupted(livekit: Told) -> None:
    spoken = livekit["conversation"]
    assert spoken["errors"] == []
    assert spoken["heard"] == [PLAIN] * 2
    answer, interrupted = spoken["said"][0]
    assert answer
    assert interrupted
    played_s, cut = spoken["played"][0]
    assert cut
    assert played_s < spoken["sound_s"] / 2


@works(LIVEKIT, "live conversations: reconnection, with what was said before")
def test_livekits_realtime_model_reconnects(livekit: Told, plain: dict[str, str]) -> None:
    again = livekit["reconnection"]
    assert again["errors"] == []
    (first, _), (second, _) = again["said"]  # which ends where the client left
    assert first == plain["Hello"]
    assert second
    assert plain["How are you?"].startswith(second)


@works(PIPECAT, "live conversations: functions")
def test_pipecats_realtime_service_calls_a_function(pipecat: Told) -> None:
    called = pipecat["function"]
    assert (called["arguments"], called["answer"]) == ({"a": 7, "b": 2}, "7 plus 2 is 9.")
    assert called["sound_s"] > 1


@works(PIPECAT, "live conversations: interruptions, turns found by the server or its own VAD")
@pytest.mark.parametrize("name", ["conversation", "own turns"])
def test_pipecats_realtime_service_is_interrupted(pipecat: Told, name: str) -> None:
    spoken: dict[str, Any] = pipecat[name]
    assert spoken["heard"] == [PLAIN]
    assert spoken["interruptions"] == 1
    expect_cut(spoken["answer"], spoken["kept"])
    assert len(spoken["answer"]) > len(spoken["greeting"])  # it was answered


@works(PIPECAT, "live conversations: a response that fails, and those after it")
def test_pipecats_realtime_service_outlives_a_failed_response(pipecat: Told) -> None:
    failure = pipecat["failure"]
    (error,) = failure["errors"]
    assert "2048" in error
    assert failure["heard"] == [PLAIN]
    assert failure["answer"]
    assert failure["sound_s"] > 0
