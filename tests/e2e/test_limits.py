"""A small stack with keys: overload is refused, memory does not grow, and it ends gracefully."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import socket
import threading
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from tests.e2e.server import MODEL, Server, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "sk-made-for-this-test-and-nothing-else"
KEYS = f"tester:{hashlib.sha256(KEY.encode()).hexdigest()}"
STORY = "Tell me a long story."
CHAT_SLOTS, CHAT_QUEUE = 4, 4
SPEECH_SLOTS, SPEECH_QUEUE = 2, 2
_GROWTH_MIB = 40
_END_S = 40


@pytest.fixture(scope="module")
def small(home: Path) -> Iterator[Server]:
    with Server(
        home,
        BENTOVOX_CHAT__SLOTS=str(CHAT_SLOTS),
        BENTOVOX_CHAT__QUEUE=str(CHAT_QUEUE),
        BENTOVOX_SPEECH__SLOTS=str(SPEECH_SLOTS),
        BENTOVOX_SPEECH__QUEUE=str(SPEECH_QUEUE),
        BENTOVOX_GATEWAY__KEYS=KEYS,
    ) as server:
        yield server


def story(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": STORY}], **more}


def flood(server: Server, path: str, body: dict[str, Any], times: int) -> list[httpx.Response]:
    """Send a request `times` at once."""

    async def send() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(limits=limits, timeout=60, headers=headers) as client:
            waiting = (client.post(server.url + path, json=body) for _ in range(times))
            return list(await asyncio.gather(*waiting))

    return asyncio.run(send())


def expect_refusal(answer: httpx.Response, limit: int) -> None:
    assert answer.status_code == 429
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert float(answer.headers["retry-after"]) > 0
    assert int(answer.headers["x-ratelimit-limit-requests"]) == limit
    assert int(answer.headers["x-ratelimit-remaining-requests"]) >= 0
    assert answer.headers["x-ratelimit-reset-requests"]


def flood_chat(server: Server, plain: dict[str, str]) -> Counter[int]:
    answers = flood(server, "/v1/chat/completions", story(), 10 * CHAT_SLOTS)
    for answer in answers:
        if answer.status_code == 200:
            assert answer.json()["choices"][0]["message"]["content"] == plain[STORY]
        else:
            expect_refusal(answer, CHAT_SLOTS + CHAT_QUEUE)
    return Counter(answer.status_code for answer in answers)


def flood_speech(server: Server) -> Counter[int]:
    body = {
        "model": "tts-1",
        "voice": "alloy",
        "input": "Every accepted request is answered whole. " * 12,
        "response_format": "pcm",
    }
    answers = flood(server, "/v1/audio/speech", body, 10 * SPEECH_SLOTS)
    lengths = {len(answer.content) for answer in answers if answer.status_code == 200}
    assert min(lengths) > 20 * 48_000
    assert min(lengths) > 0.95 * max(lengths)  # all of them whole, but for espeak's own noise
    for answer in answers:
        if answer.status_code != 200:
            expect_refusal(answer, SPEECH_SLOTS + SPEECH_QUEUE)
    return Counter(answer.status_code for answer in answers)


@pytest.mark.parametrize("key", [None, "sk-wrong", KEYS])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/audio/speech", "/v1/models"])
def test_without_the_right_key_everything_is_401(small: Server, key: str | None, path: str) -> None:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    method = "GET" if path == "/v1/models" else "POST"
    answer = httpx.request(method, small.url + path, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_health_needs_no_key(small: Server) -> None:
    assert httpx.get(f"{small.url}/livez").status_code == 200
    assert small.status() == "ready"


def test_with_the_right_key_the_sdk_is_answered(small: Server, plain: dict[str, str]) -> None:
    with small.client(KEY) as client:
        answer = client.chat.completions.create(**story())
        assert answer.choices[0].message.content == plain[STORY]
    with small.client("sk-wrong") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_ten_times_the_slots_is_answered_whole_or_refused_properly(
    small: Server, plain: dict[str, str]
) -> None:
    chat, speech = flood_chat(small, plain), flood_speech(small)
    assert set(chat) == set(speech) == {200, 429}
    assert chat[200] >= CHAT_SLOTS + CHAT_QUEUE
    assert speech[200] >= SPEECH_SLOTS + SPEECH_QUEUE
    assert small.sample("bentovox_rejected_total", role="chat") == chat[429]
    assert small.sample("bentovox_slots_in_use") == 0
    assert small.sample("bentovox_queue_length") == 0
    assert small.status() == "ready"


def test_overload_does_not_make_any_process_grow(small: Server, plain: dict[str, str]) -> None:
    def resident_mib() -> dict[int, float]:
        return {p.pid: p.memory_info().rss / (1 << 20) for p in small.processes()}

    flood_chat(small, plain)
    flood_speech(small)
    before = resident_mib()
    for _ in range(4):
        flood_chat(small, plain)
        flood_speech(small)
    after = resident_mib()
    assert set(after) == set(before)  # nobody died, nobody was added
    assert max(after[pid] - before[pid] for pid in before) < _GROWTH_MIB


def test_the_sdks_retries_get_everybody_answered_in_the_end(
    small: Server, plain: dict[str, str]
) -> None:
    got: list[str | None] = []

    with small.client(KEY, max_retries=20) as client:

        def ask() -> None:
            got.append(client.chat.completions.create(**story()).choices[0].message.content)

        threads = [threading.Thread(target=ask) for _ in range(4 * CHAT_SLOTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert got == [plain[STORY]] * len(threads)


def test_a_running_stream_is_finished_before_the_server_ends(small: Server) -> None:
    """The last test of this server: afterwards it is gone."""
    family = small.processes()
    body = story(
        stream=True, ignore_eos=True, max_tokens=1500, stream_options={"include_usage": True}
    )
    told = {"model": "tts-1", "voice": "alloy", "input": "word " * 800, "response_format": "wav"}

    def refuses() -> bool:
        try:
            socket.create_connection(("127.0.0.1", small.port), timeout=1).close()
        except ConnectionRefusedError:
            return True
        return False

    with ExitStack() as streams:

        def begun(path: str, body: dict[str, Any]) -> Iterator[bytes]:
            headers = {"authorization": f"Bearer {KEY}"}
            url = f"{small.url}/v1/{path}"
            asked = httpx.stream("POST", url, json=body, headers=headers, timeout=60)
            return streams.enter_context(asked).iter_raw()

        chat, speech = begun("chat/completions", body), begun("audio/speech", told)
        text, sound = next(chat), len(next(speech))
        small.process.send_signal(signal.SIGTERM)
        # More sound than sockets hold: until somebody listens, there is work to finish.
        eventually(refuses, 10, "new connections to be refused while streams run")
        assert small.process.poll() is None
        text += b"".join(chat)
        sound += sum(map(len, speech))
    assert text.rstrip().endswith(b"data: [DONE]")
    assert b'"completion_tokens":1500' in text.replace(b" ", b"")
    assert sound > 100 * 48_000
    assert small.process.wait(_END_S) == 0
    eventually(lambda: not small.processes(), 5, "no process to be left")
    assert len(family) >= 4


def test_the_key_is_in_no_log(small: Server) -> None:
    log = small.log.read_text(errors="replace")
    assert "POST /v1/chat/completions" in log
    assert KEY not in log
    assert KEYS.partition(":")[2] not in log
