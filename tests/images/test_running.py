"""The images of the CPU platform, run as they will be run: hardened, behind the gateway, killed."""

from __future__ import annotations

import functools
import json
import threading
import time
import uuid
from typing import TYPE_CHECKING

import httpx
import openai
import pytest

from ci import docker, platforms, specs, test_image
from ci.container import Container
from tests.e2e.server import MODEL, eventually
from tests.parrot import TEXT, parrot
from tests.whisper import SENTENCES, trained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ci.image import Image


KILL_ENGINE = """
import os, pathlib, signal
for place in pathlib.Path('/proc').glob('[0-9]*'):
    if place.name != str(os.getpid()) and b'EngineCore' in (place / 'cmdline').read_bytes():
        os.kill(int(place.name), signal.SIGKILL)
        print(place.name)
"""
# What tini started; a health check and `docker exec` are nobody's children in there.
KILL_SUPERVISOR = """
import os, pathlib, signal
for place in pathlib.Path('/proc').glob('[0-9]*'):
    if 'PPid:\\t1\\n' in (place / 'status').read_text():
        os.kill(int(place.name), signal.SIGKILL)
"""
ROLES = ("speech", "transcription", "chat")
MOUNTED = "/models/whisper"
HEARING = {"BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL": MOUNTED}
WATCHED = ("--health-interval=1s", "--health-retries=1")


class Machine:
    """A container of each role in a network of their own, as on a machine that serves."""

    def __init__(self, built: Callable[[str], Image], whisper: Path) -> None:
        self.network = f"bentovox-test-{uuid.uuid4().hex[:8]}"
        docker.call("network", "create", self.network)
        self.containers: dict[str, Container] = {}
        for role in ("speech", "chat"):
            self._start(role, built(role).names[0], *WATCHED)
        hearing = built("transcription").names[0]
        self._start("transcription", hearing, f"--volume={whisper}:{MOUNTED}:ro", **HEARING)
        for role in ROLES:
            self.containers[role].wait("healthy")
        self._start(
            "gateway",
            built("gateway").names[0],
            BENTOVOX_GATEWAY__CHAT='["http://chat:3000"]',
            BENTOVOX_GATEWAY__SPEECH='["http://speech:3000"]',
            BENTOVOX_GATEWAY__TRANSCRIPTION='["http://transcription:3000"]',
        )
        self.containers["gateway"].wait("healthy")

    def _start(self, role: str, image: str, *more: str, **settings: str) -> None:
        place = (f"--network={self.network}", f"--network-alias={role}")
        self.containers[role] = Container(image, *place, *more, **settings)

    def end(self) -> None:
        self.client.close()
        for container in self.containers.values():
            container.__exit__()
        docker.ask("network", "rm", self.network)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.containers['gateway'].port}"

    @functools.cached_property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that says `TEXT`."""
    return parrot(tmp_path_factory.mktemp("models") / "whisper")


@pytest.fixture(scope="module")
def machine(built: Callable[[str], Image], whisper: Path) -> Iterator[Machine]:
    made = Machine(built, whisper)
    try:
        yield made
    finally:
        made.end()


@pytest.mark.parametrize("name", ["gateway", "speech", "transcription", "chat", "stack"])
def test_image_holds_every_promise(built: Callable[[str], Image], name: str) -> None:
    checks = test_image.run(specs.load(name), platforms.get("cpu"), built(name).names[0])
    assert {check.name for check in checks} == {
        *("user", "compiler", "read-only", "environment", "health", "answer", "end"),
    }
    assert [check for check in checks if not check.passed] == []


def test_chat_is_streamed_through_the_images(machine: Machine) -> None:
    stream = machine.client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hello"}], stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces).startswith("Hello! I am the demo model")
    assert len(pieces) > 5


def test_speech_is_streamed_through_the_images(machine: Machine) -> None:
    with machine.client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input="Hello from an image.", response_format="wav"
    ) as answer:
        audio = b"".join(answer.iter_bytes())
    assert audio.startswith(b"RIFF")
    assert len(audio) > 20_000


def spoken(machine: Machine) -> tuple[str, bytes]:
    answer = machine.client.audio.speech.create(
        model="tts-1", voice="alloy", input="Hello from an image.", response_format="mp3"
    )
    return "hello.mp3", answer.content


def test_speech_is_heard_through_the_images(machine: Machine) -> None:
    heard = machine.client.audio.transcriptions.create(
        model="whisper-1", file=spoken(machine), language="en"
    )
    assert heard.text == TEXT.strip()


def test_what_is_heard_is_streamed_through_the_images(machine: Machine) -> None:
    stream = machine.client.audio.transcriptions.create(
        model="whisper-1", file=spoken(machine), language="en", stream=True
    )
    events = list(stream)
    assert "".join(e.delta for e in events if e.type == "transcript.text.delta") == TEXT.strip()
    assert events[-1].type == "transcript.text.done"


def test_what_one_image_says_another_writes_down(
    built: Callable[[str], Image], machine: Machine
) -> None:
    image, mounted = built("transcription").names[0], f"--volume={trained()}:{MOUNTED}:ro"
    heard = []
    with Container(image, mounted, **HEARING) as container:
        container.wait("healthy")
        url = f"http://127.0.0.1:{container.port}/v1"
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            for sentence in SENTENCES["en"]:
                said = machine.client.audio.speech.create(
                    model="tts-1", voice="alloy", input=sentence, response_format="wav"
                )
                file = ("said.wav", said.content)
                answer = client.audio.transcriptions.create(
                    model="whisper-1", file=file, language="en"
                )
                heard.append(answer.text)
    # It was trained here in a minute: one or the other it takes for its neighbour.
    assert sum(map(str.__eq__, heard, SENTENCES["en"])) >= len(heard) - 2, heard


def test_every_roles_models_are_listed(machine: Machine) -> None:
    assert {MODEL, "tts-1", "whisper-1"} <= {model.id for model in machine.client.models.list()}


def test_transcription_without_a_model_lives_and_says_in_a_line_how_to_get_one(
    built: Callable[[str], Image],
) -> None:
    with Container(built("transcription").names[0], HF_HUB_OFFLINE="1") as container:

        def has_settled() -> bool:
            try:
                status, said = container.request("GET", "/readyz")
            except OSError:
                return False  # it does not listen yet
            return status == 503 and json.loads(said)["status"] == "unavailable"

        eventually(has_settled, 30, "it knows that it gets none")
        assert container.request("GET", "/livez")[0] == 200
        assert container.exec("healthcheck.py", "/livez") is not None
        assert container.exec("healthcheck.py") is None
        (line,) = json.loads(container.request("GET", "/readyz")[1])["detail"].values()
        assert "\n" not in line
        assert "BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL" in line
        url = f"http://127.0.0.1:{container.port}/v1"
        with (
            openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client,
            pytest.raises(openai.InternalServerError) as refused,
        ):
            client.audio.transcriptions.create(
                model="whisper-1", file=("a.wav", test_image.silence())
            )
    assert refused.value.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert line in refused.value.message


def test_dead_engine_turns_docker_s_health_and_speech_goes_on_until_chat_is_back(
    machine: Machine,
) -> None:
    chat = machine.containers["chat"]
    assert chat.exec("python3", "-c", KILL_ENGINE)
    chat.wait("unhealthy", 30)
    machine.client.audio.speech.create(model="tts-1", voice="alloy", input="Still here.")
    with pytest.raises(openai.InternalServerError) as refused:
        machine.client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello"}]
        )
    assert refused.value.status_code == httpx.codes.SERVICE_UNAVAILABLE
    chat.wait("healthy", 120)

    def answers() -> bool:
        hello = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
        return httpx.post(f"{machine.url}/v1/chat/completions", json=hello, timeout=30).is_success

    eventually(answers, 10, "chat answers again")


def test_container_that_is_stopped_ends_its_stream_first(built: Callable[[str], Image]) -> None:
    with Container(built("speech").names[0]) as speech:
        speech.wait("healthy")
        url = f"http://127.0.0.1:{speech.port}/v1/audio/speech"
        text = "A long story is told, and told again. " * 60
        body = {"model": "tts-1", "voice": "alloy", "input": text, "response_format": "pcm"}
        whole = len(httpx.post(url, json=body, timeout=60).content)
        with httpx.stream("POST", url, json=body, timeout=60) as answer:
            pieces = answer.iter_raw()
            got = len(next(pieces))
            stopping = threading.Thread(
                target=docker.call, args=("stop", "--timeout=30", speech.name)
            )
            stopping.start()
            time.sleep(0.3)  # the reader is slow; the server is told meanwhile
            got += sum(map(len, pieces))
            stopping.join()
        assert got == pytest.approx(whole, rel=0.02)
        assert docker.call("inspect", "--format={{.State.ExitCode}}", speech.name) in {"0", "143"}


def test_container_that_is_killed_is_started_anew(built: Callable[[str], Image]) -> None:
    with Container(built("speech").names[0], "--restart=unless-stopped") as speech:
        speech.wait("healthy")
        # From inside, as a crash: docker counts its own kill as the user's wish.
        speech.exec("python3", "-c", KILL_SUPERVISOR)
        restarts = "--format={{.RestartCount}}"
        eventually(
            lambda: docker.call("inspect", restarts, speech.name) != "0", 30, "docker restarts it"
        )
        speech.wait("healthy")


def test_another_port_is_taken_and_watched(built: Callable[[str], Image]) -> None:
    with Container(built("speech").names[0], BENTOML_PORT="3100") as speech:
        speech.wait("healthy")


def test_nothing_secret_is_in_an_image_s_environment_or_history(
    built: Callable[[str], Image],
) -> None:
    for name in ("gateway", "speech", "transcription", "chat"):
        reference = built(name).names[0]
        known = docker.call("image", "inspect", reference)
        told = docker.call("history", "--no-trunc", reference)
        for word in ("hf_", "sk-", "TOKEN=", "PASSWORD", "SECRET="):
            assert word not in known
            assert word not in told
