"""The whole stack with Compose, on the CPU: OpenAI's SDK, WebSockets and failures."""

from __future__ import annotations

import base64
import io
import itertools
import json
import socket
import ssl
import threading
import time
import wave
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.deploy.deployment import OURS
from tests.parrot import TEXT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.deploy.deployment import Stack


MODEL = "bentovox-demo"
HELLO: Any = [{"role": "user", "content": "Hello"}]
SENTENCE = "The server answers every request that it accepts, one sentence after another. "
SPEECH: Any = {"model": "tts-1", "voice": "alloy", "response_format": "pcm"}
BROKEN = {
    "no request line": b"GARBAGE\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "a header too large": b"GET / HTTP/1.1\r\nHost: x\r\nx: " + b"a" * 40_000 + b"\r\n\r\n",
    "a URL too long": b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method that is forbidden": b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a version to come": b"GET / HTTP/9.0\r\nHost: x\r\n\r\n",
}

# Between single quotes in a shell.
KILL_ENGINE = """
import os, pathlib, signal
for place in pathlib.Path("/proc").glob("[0-9]*"):
    if place.name != str(os.getpid()) and b"EngineCore" in (place / "cmdline").read_bytes():
        os.kill(int(place.name), signal.SIGKILL)
        print(place.name)
"""


def eventually(check: Any, within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.1)


def long_stream(client: openai.OpenAI, tokens: int = 600) -> Iterator[float]:
    """Yield when each piece of a long answer came, in seconds from the request."""
    began = time.monotonic()
    for chunk in client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        stream=True,
        max_tokens=tokens,
        extra_body={"ignore_eos": True},
    ):
        if chunk.choices:
            yield time.monotonic() - began


def wav(minutes: int) -> bytes:
    """Return silence as a studio has it: 11 MiB a minute."""
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setparams((2, 2, 48_000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 2 * 48_000 * 60 * minutes))
    return made.getvalue()


def readiness(stack: Stack) -> dict[str, Any]:
    """Return what the gateway says of itself and its roles; nothing while nginx has none."""
    answer = httpx.get(f"{stack.url}/readyz", timeout=30)
    found: dict[str, Any] = answer.json()
    return found if "detail" in found else {"status": "", "detail": {}}


def chat_answers(stack: Stack) -> bool:
    with stack.client() as client:
        try:
            answer = client.chat.completions.create(model=MODEL, messages=HELLO)
        except openai.APIError:
            return False
    return bool(answer.choices[0].message.content)


def is_openai_error(body: bytes) -> bool:
    return json.loads(body)["error"].keys() == {"message", "type", "param", "code"}


def test_chat_is_streamed_as_it_is_made(stack: Stack) -> None:
    def is_held_back() -> bool:
        with stack.client() as client:
            came_s = list(long_stream(client, tokens=1900))
        assert len(came_s) > 1000
        longest_gap_s = max(after - before for before, after in itertools.pairwise(came_s))
        return came_s[0] > came_s[-1] / 4 or longest_gap_s > came_s[-1] / 2

    # A busy machine may stop for a moment, but hardly each time.
    assert not all(is_held_back() for _ in range(4))


def test_speech_is_streamed_as_it_is_made(stack: Stack) -> None:
    body = {**SPEECH, "input": SENTENCE * 50}
    with httpx.Client(base_url=stack.url, headers=stack.headers, timeout=60) as client:
        began = time.monotonic()
        with client.stream("POST", "/v1/audio/speech", json=body) as answer:
            assert answer.status_code == 200
            came_s = [time.monotonic() - began for _ in answer.iter_raw()]
    assert len(came_s) > 10
    assert came_s[0] < came_s[-1] / 2  # espeak-ng makes it all in a moment


def test_speech_comes_over_a_websocket_while_its_text_is_written(stack: Stack) -> None:
    url = stack.url.replace("http", "ws") + "/v1/audio/speech/stream"
    key = f"openai-insecure-api-key.{stack.key}"
    with connect(url, proxy=None, subprotocols=["realtime", key]) as connection:  # type: ignore[list-item]
        config = {"voice": "alloy", "stream_audio": True, "response_format": "pcm"}
        connection.send(json.dumps({"type": "session.config", **config}))
        connection.send(json.dumps({"type": "input.text", "text": SENTENCE + "And the next "}))
        while not isinstance(connection.recv(timeout=30), bytes):
            pass  # events; the utterance has no end yet
        connection.send(json.dumps({"type": "input.done"}))
        heard = [connection.recv(timeout=30)]
        while isinstance(heard[-1], bytes) or json.loads(heard[-1])["type"] != "session.done":
            heard.append(connection.recv(timeout=30))
    assert sum(len(data) for data in heard if isinstance(data, bytes)) > 48_000


def test_start_waits_for_no_model_and_readiness_says_what_is_missing(stack: Stack) -> None:
    assert stack.without_a_model["status"] == "ready"
    detail = stack.without_a_model["detail"]
    assert (detail["chat"], detail["speech"]) == ("ready", "ready")
    assert detail["transcription"].startswith("pocketsphinx hears in faster_whisper's place: ")
    assert "/models/my-whisper" in detail["transcription"]
    assert "\n" not in detail["transcription"]


def test_every_roles_models_are_listed(stack: Stack) -> None:
    with stack.client() as client:
        assert {MODEL, "tts-1", "whisper-1"} <= {model.id for model in client.models.list()}


def test_speech_is_heard_once_the_model_is_in_its_volume(stack: Stack) -> None:
    with stack.client() as client:
        spoken = client.audio.speech.create(model="tts-1", voice="alloy", input=SENTENCE)
        asked: Any = {"model": "whisper-1", "language": "en"}
        file = ("spoken.mp3", spoken.content)
        assert client.audio.transcriptions.create(file=file, **asked).text == TEXT.strip()
        stream = client.audio.transcriptions.create(file=file, stream=True, **asked)
        events = list(stream)
    pieces = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert events[0].type == "transcript.text.delta"
    assert "".join(pieces) == TEXT.strip()
    assert events[-1].type == "transcript.text.done"


@pytest.mark.filterwarnings("ignore:connect\\(\\) must be used:DeprecationWarning")  # the SDK's
def test_speech_is_heard_live_through_nginx(stack: Stack) -> None:
    session: Any = {
        "type": "transcription",
        "audio": {"input": {"transcription": {"language": "en"}, "turn_detection": None}},
    }
    with stack.client() as client:
        spoken = client.audio.speech.create(**SPEECH, input=SENTENCE).content
        with client.realtime.connect(extra_query={"intent": "transcription"}) as live:
            live.session.update(session=session)
            for begin in range(0, len(spoken), 24_000):
                piece = base64.b64encode(spoken[begin : begin + 24_000]).decode()
                live.input_audio_buffer.append(audio=piece)
            live.input_audio_buffer.commit()
            for event in live:
                assert event.type != "error", event
                if event.type.endswith("transcription.completed"):
                    break
    assert getattr(event, "transcript", "") == TEXT.strip()


def test_recording_beyond_the_limit_is_413_and_one_below_it_is_heard(stack: Stack) -> None:
    with stack.client() as client:
        asked: Any = {"model": "whisper-1", "response_format": "text", "language": "en"}
        client.audio.transcriptions.create(file=("long.wav", wav(3)), **asked)
        with pytest.raises(openai.APIStatusError) as refused:
            client.audio.transcriptions.create(file=("longer.wav", wav(4)), **asked)
    assert refused.value.status_code == 413


def test_websocket_of_a_page_passes_for_its_own_origin_only(stack: Stack) -> None:
    url = stack.url.replace("http", "ws") + "/v1/audio/speech/stream"
    own: Any = stack.url
    elsewhere: Any = "https://elsewhere.example"
    with connect(url, proxy=None, origin=own, additional_headers=stack.headers):
        pass
    asked: Any = {"proxy": None, "additional_headers": stack.headers}
    with pytest.raises(InvalidStatus) as refusal, connect(url, origin=elsewhere, **asked):
        pass
    assert refusal.value.response.status_code == 403


def test_key_is_asked_for_once_there_is_one(stack: Stack) -> None:
    assert "Hello! I am the demo model of Bentovox." in stack.hello_without_a_key
    with stack.client("sk-wrong") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()
    with stack.client() as client:
        assert MODEL in [model.id for model in client.models.list()]


def test_body_beyond_the_limit_is_413_in_openais_shape(stack: Stack) -> None:
    with stack.client() as client, pytest.raises(openai.APIStatusError) as refused:
        client.embeddings.create(model=MODEL, input="a" * (37 << 20))
    assert refused.value.status_code == 413
    assert refused.value.code == "request_too_large"
    assert "36 MiB" in refused.value.message  # nginx' words: the gateway never saw it
    assert refused.value.request_id


@pytest.mark.parametrize("what", BROKEN)
def test_what_nginx_refuses_has_openais_error_shape(stack: Stack, what: str) -> None:
    host, port = stack.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(BROKEN[what])
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
    assert b"application/json" in head
    assert is_openai_error(body)


@pytest.mark.parametrize("path", ["/metrics", "//metrics", "/%6detrics", "/x/../metrics"])
def test_metrics_are_hidden_from_outside(stack: Stack, path: str) -> None:
    url = httpx.URL(stack.url, raw_path=path.encode())
    answer = httpx.get(url, headers=stack.headers)
    assert answer.status_code == 404
    assert is_openai_error(answer.content)


@pytest.mark.parametrize("name", ["nginx", *OURS])
def test_container_can_write_nowhere_but_in_tmp_and_its_volumes(stack: Stack, name: str) -> None:
    status = "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status"
    within = f"exec 2>&1; id -u; {status}; touch /tmp/x; touch /x || true"
    said = stack.deployment.compose(f'exec -T {name} sh -c "{within}"')
    none = "0" * 16
    user, *rest = said.split(maxsplit=7)
    assert int(user) > 0
    assert rest[:6] == ["CapEff:", none, "CapBnd:", none, "NoNewPrivs:", "1"]
    assert rest[6].count("touch:") == 1
    assert "'/x': Read-only file system" in rest[6]


def test_log_of_nginx_has_who_asked_for_what_and_no_key(stack: Stack) -> None:
    marked = {**stack.headers, "x-request-id": "req_of_this_test"}
    httpx.get(f"{stack.url}/v1/models?api_key={stack.key}", headers=marked)
    lines = stack.deployment.compose("logs --no-log-prefix nginx").splitlines()
    (line,) = [json.loads(line) for line in lines if "req_of_this_test" in line]
    assert line["request"] == "GET /v1/models"
    assert line["status"] == 200
    assert line["client"]
    assert stack.key not in stack.deployment.compose("logs")


def test_dead_engine_turns_chats_health_until_it_is_back(stack: Stack) -> None:
    def health() -> str:
        return str(stack.deployment.state("chat")["State"]["Health"]["Status"])

    assert stack.deployment.compose(f"exec -T chat python3 -c '{KILL_ENGINE}'")
    eventually(lambda: health() == "unhealthy", 30, "docker notices")
    with stack.client() as client:
        client.audio.speech.create(model="tts-1", voice="alloy", input="Still here.")
        with pytest.raises(openai.InternalServerError) as refused:
            client.chat.completions.create(model=MODEL, messages=HELLO)
    assert refused.value.status_code == httpx.codes.SERVICE_UNAVAILABLE
    eventually(lambda: health() == "healthy", 400, "there is another engine")
    eventually(lambda: chat_answers(stack), 10, "chat answers again")
    assert stack.deployment.state("chat")["RestartCount"] == 0


def test_dead_chat_leaves_speech_alone_even_to_a_new_gateway_and_comes_back(stack: Stack) -> None:
    def is_spoken() -> bool:
        body = {**SPEECH, "input": SENTENCE}
        spoken = httpx.post(f"{stack.url}/v1/audio/speech", json=body, headers=stack.headers)
        return spoken.status_code == 200 and len(spoken.content) > 48_000  # a second of it

    # Detached: the container dies with it, and sometimes before the shell has said how it ended.
    stack.deployment.compose("exec --detach chat sh -c 'kill -9 -1'")
    eventually(lambda: readiness(stack)["status"] == "degraded", 30, "the gateway notices")
    assert is_spoken()
    eventually(lambda: stack.deployment.state("chat")["RestartCount"] == 1, 30, "docker starts it")
    stack.deployment.compose("pause chat")  # held where it is: a gateway comes that never saw it
    stack.deployment.compose("up --detach --force-recreate --no-deps gateway")
    eventually(lambda: readiness(stack)["detail"].get("speech") == "ready", 30, "speech is ready")
    assert readiness(stack)["detail"]["chat"] != "ready"
    assert is_spoken()
    stack.deployment.compose("unpause chat")
    eventually(lambda: chat_answers(stack), 400, "chat comes back")
    assert stack.deployment.state("chat")["RestartCount"] == 1


def test_gateway_that_is_away_is_502_in_openais_shape_and_found_again(stack: Stack) -> None:
    stack.deployment.compose("stop gateway")

    def is_502() -> bool:
        answer = httpx.get(f"{stack.url}/v1/models", headers=stack.headers, timeout=30)
        assert answer.status_code in {502, 504}  # 504 while nginx knows the old address
        assert is_openai_error(answer.content)
        return answer.headers.get("retry-after") == "2"

    eventually(is_502, 30, "nginx forgets the old address")
    stack.deployment.compose("up --detach --force-recreate --no-deps --wait gateway")
    eventually(lambda: readiness(stack)["status"] == "ready", 30, "nginx finds the new gateway")


def test_tls_replaces_plain_http(stack: Stack) -> None:
    deployment = stack.deployment
    deployment.shell(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost "
        "-keyout privkey.pem -out fullchain.pem 2>/dev/null"
    )
    deployment.shell(
        "install -m 644 fullchain.pem .secrets/tls_certificate\n"
        "install -m 644 privkey.pem .secrets/tls_key"
    )
    files = {"COMPOSE_FILE": "compose.yaml:compose.tls.yaml"}
    try:
        deployment.compose("up --detach --wait --no-deps nginx", **files)
        url = stack.url
        context = ssl.create_default_context(cafile=str(deployment.folder / "fullchain.pem"))
        context.check_hostname = False
        secure = httpx.get(url.replace("http", "https") + "/readyz", verify=context)
        assert secure.json()["status"] == "ready"
        plain = httpx.get(f"{url}/readyz")
        assert plain.status_code == 400
        assert is_openai_error(plain.content)
    finally:
        deployment.compose("up --detach --wait --no-deps nginx")


def test_stop_lets_a_running_answer_finish(stack: Stack) -> None:
    stopping = threading.Thread(target=stack.deployment.compose, args=("stop",))
    with stack.client() as client:
        came_s = long_stream(client, tokens=1900)
        next(came_s)
        stopping.start()
        assert len(list(came_s)) > 1000  # to its end; a break would raise
    stopping.join()
    codes = [stack.deployment.state(name)["State"]["ExitCode"] for name in OURS]
    assert codes == [0] * len(OURS)
