"""A crash of one role is detected, reported and repaired, while the others go on."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import psutil
from websockets.sync.client import connect

from services.openai.paths import REALTIME
from tests.e2e.server import MODEL, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from websockets.sync.client import ClientConnection

    from tests.e2e.server import Server

HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
SAY = {"model": "tts-1", "voice": "alloy", "input": "Still here.", "response_format": "wav"}
LONG = {"n": 4, "max_tokens": 1900, "temperature": 1.0}
_NOTICED_S = 20.0
_WAITS_S = 3.0
_BACK_S = 90.0


def chat(stack: Server, timeout_s: float = 60) -> httpx.Response:
    return httpx.post(f"{stack.url}/v1/chat/completions", json=HELLO, timeout=timeout_s)


def speech(stack: Server, timeout_s: float = 60) -> httpx.Response:
    return httpx.post(f"{stack.url}/v1/audio/speech", json=SAY, timeout=timeout_s)


@contextmanager
def asked_all_the_time(ask: Callable[[], httpx.Response]) -> Iterator[list[int]]:
    """Ask again and again beside the block; give the statuses."""
    statuses: list[int] = []
    enough = threading.Event()

    def asking() -> None:
        while not enough.wait(0.2):
            statuses.append(ask().status_code)

    thread = threading.Thread(target=asking)
    thread.start()
    try:
        yield statuses
    finally:
        enough.set()
        thread.join()


def expect_refusals(stack: Server, ask: Callable[[Server, float], httpx.Response]) -> None:
    """Within seconds every request is refused in OpenAI's shape, and the door stays open."""
    answers: list[Any] = []

    def refused() -> bool:
        try:
            answers.append(ask(stack, _WAITS_S))
        except httpx.ReadTimeout:
            return False  # it slipped into the dead worker's socket, and waits for the next worker
        return bool(answers[-1].status_code == 503)

    eventually(refused, _NOTICED_S, "503")
    answer = answers[-1]
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert float(answer.headers["retry-after"]) > 0
    # Until then: an answer that was whole, or an error that says so.
    assert {a.status_code for a in answers} <= {200, 500, 502, 503}
    eventually(lambda: stack.status() == "degraded", _NOTICED_S, "degraded")
    assert httpx.get(f"{stack.url}/readyz").status_code == 200


def expect_hello(stack: Server, plain: dict[str, str]) -> None:
    stack.wait_ready(_BACK_S)
    answer = chat(stack)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == plain["Hello"]


def test_speech_answers_while_the_killed_chat_engine_is_replaced(
    stack: Server, plain: dict[str, str]
) -> None:
    killed = stack.engine()
    with asked_all_the_time(lambda: speech(stack)) as statuses:
        killed.kill()
        expect_refusals(stack, chat)
        expect_hello(stack, plain)
    assert set(statuses) == {200}
    assert len(statuses) > 10
    assert stack.engine().pid != killed.pid


STREAMS: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": HELLO["messages"], **LONG},
    "completions": {"prompt": "Hello", **LONG},
    "responses": {"input": "Hello", "max_output_tokens": 1900},
}


def until_broken(stack: Server, path: str, begun: threading.Barrier) -> tuple[int, bytes]:
    """Return the status of a stream and all of it, which has no last chunk."""
    asked = {"model": MODEL, "stream": True, "ignore_eos": True, **STREAMS[path]}
    broken = b""
    with httpx.stream("POST", f"{stack.url}/v1/{path}", json=asked, timeout=60) as answer:
        try:
            for piece in answer.iter_raw():
                if not broken:
                    begun.wait(60)
                broken += piece
        except httpx.RemoteProtocolError:
            return answer.status_code, broken
    raise AssertionError(f"ended like something whole: {broken[-300:]!r}")


def ask(live: ClientConnection) -> None:
    content = [{"type": "input_text", "text": "Hello"}]
    asked = {"input": [{"type": "message", "role": "user", "content": content}]}
    live.send(json.dumps({"type": "response.create", "response": asked}))


def until_event(live: ClientConnection, kind: str) -> list[dict[str, Any]]:
    events = [json.loads(live.recv())]
    while events[-1]["type"] != kind:
        events.append(json.loads(live.recv()))
    return events


def test_running_streams_are_broken_off_visibly_when_their_engine_dies(
    stack: Server, plain: dict[str, str]
) -> None:
    """A live conversation, too; but that goes on when the engine is back."""
    # The conversation role learns a little later than the gateway that chat is back.
    eventually(lambda: stack.status() == "ready", _BACK_S, "every role to be ready")
    engine = stack.engine()
    begun = threading.Barrier(len(STREAMS) + 1, action=engine.suspend)
    with (
        ThreadPoolExecutor() as pool,
        connect(f"{stack.url.replace('http', 'ws')}{REALTIME}", proxy=None) as live,
    ):
        streams = [pool.submit(until_broken, stack, path, begun) for path in STREAMS]
        begun.wait(60)
        ask(live)
        until_event(live, "response.created")
        engine.kill()
        events = until_event(live, "response.done")
        assert not any(event["type"] == "error" for event in events)  # Pipecat would read no more
        response = events[-1]["response"]
        assert response["status"] == "failed"
        assert response["status_details"]["error"]["type"] == "server_error"
        expect_broken(streams)
        eventually(lambda: stack.status() != "ready", _BACK_S, "the crash to be noticed")
        expect_hello(stack, plain)
        ask(live)
        (answer,) = until_event(live, "response.done")[-1]["response"]["output"]
        assert answer["content"][0]["transcript"] == plain["Hello"]


def expect_broken(streams: list[Future[tuple[int, bytes]]]) -> None:
    for status, broken in (stream.result() for stream in streams):
        assert status == 200
        assert b"[DONE]" not in broken
        assert b"response.completed" not in broken
        last = broken.strip().rpartition(b"data: ")[2]
        fault = json.loads(last)
        fault = fault.get("error", fault)
        assert {"message", "type", "param", "code"} <= set(fault)
        assert fault["message"]


def test_a_killed_chat_worker_leaves_no_engine_behind_and_comes_back(
    stack: Server, plain: dict[str, str]
) -> None:
    worker, engine = stack.worker("chat"), stack.engine()
    with asked_all_the_time(lambda: speech(stack)) as statuses:
        worker.kill()
        expect_refusals(stack, chat)
        expect_hello(stack, plain)
    assert set(statuses) == {200}
    eventually(lambda: not psutil.pid_exists(engine.pid), 10, "the orphaned engine to end")
    engines = [p for p in stack.processes() if "EngineCore" in " ".join(p.cmdline())]
    assert [engine.pid for engine in engines] == [stack.engine().pid]


def test_chat_answers_while_the_killed_speech_worker_is_replaced(
    stack: Server, plain: dict[str, str]
) -> None:
    with asked_all_the_time(lambda: chat(stack)) as statuses:
        stack.worker("speech").kill()
        began = time.monotonic()
        stack.wait_ready(_BACK_S)
        eventually(lambda: speech(stack).status_code == 200, 30, "speech to be back")
        assert time.monotonic() - began < _BACK_S
        eventually(lambda: len(statuses) > 3, 10, "some answers of chat")
    assert set(statuses) == {200}
    expect_hello(stack, plain)
