"""The CPU images, each run hardened as in production; tests/deploy runs them together."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING

import httpx
import openai
import pytest

from ci import docker
from tests.container import Container, silence
from tests.e2e.server import eventually
from tests.whisper import SENTENCES, trained

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.image import Image


# What tini started; a health check and `docker exec` are nobody's children in there.
KILL_SUPERVISOR = """
import os, pathlib, signal
for place in pathlib.Path('/proc').glob('[0-9]*'):
    if 'PPid:\\t1\\n' in (place / 'status').read_text():
        os.kill(int(place.name), signal.SIGKILL)
"""
MOUNTED = "/models/whisper"
HEARING = {"BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL": MOUNTED}


def client_of(container: Container) -> openai.OpenAI:
    url = f"http://127.0.0.1:{container.port}/v1"
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0)


def test_what_one_image_says_another_writes_down(built: Callable[[str], Image]) -> None:
    mounted = f"--volume={trained()}:{MOUNTED}:ro"
    heard = []
    with (
        Container(built("speech").names[0], BENTOVOX_SPEECH__ENGINE="espeak") as speech,
        Container(built("transcription").names[0], mounted, **HEARING) as transcription,
        client_of(speech) as saying,
        client_of(transcription) as hearing,
    ):
        for container in (speech, transcription):
            container.wait("healthy")
        for sentence in SENTENCES["en"]:
            said = saying.audio.speech.create(
                model="tts-1", voice="alloy", input=sentence, response_format="wav"
            )
            assert said.content.startswith(b"RIFF")
            assert len(said.content) > 20_000
            answer = hearing.audio.transcriptions.create(
                model="whisper-1", file=("said.wav", said.content), language="en"
            )
            heard.append(answer.text)
    # It was trained here in a minute: one or the other it takes for its neighbour.
    assert sum(map(str.__eq__, heard, SENTENCES["en"])) >= len(heard) - 2, heard


def test_transcription_without_a_model_lives_and_says_in_a_line_how_to_get_one(
    built: Callable[[str], Image],
) -> None:
    alone = {"HF_HUB_OFFLINE": "1", "BENTOVOX_TRANSCRIPTION__STAND_IN": ""}
    with Container(built("transcription").names[0], **alone) as container:

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
        with (
            client_of(container) as client,
            pytest.raises(openai.InternalServerError) as refused,
        ):
            client.audio.transcriptions.create(model="whisper-1", file=("a.wav", silence()))
    assert refused.value.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert line in refused.value.message


def test_container_that_is_stopped_ends_its_stream_first(built: Callable[[str], Image]) -> None:
    with Container(built("speech").names[0], HF_HUB_OFFLINE="1") as speech:
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
    offline = {"HF_HUB_OFFLINE": "1"}
    with Container(built("speech").names[0], "--restart=unless-stopped", **offline) as speech:
        speech.wait("healthy")
        # From inside, as a crash: docker counts its own kill as the user's wish.
        speech.exec("python3", "-c", KILL_SUPERVISOR)
        restarts = "--format={{.RestartCount}}"
        eventually(
            lambda: docker.call("inspect", restarts, speech.name) != "0", 30, "docker restarts it"
        )
        speech.wait("healthy")


def test_another_port_is_taken_and_watched(built: Callable[[str], Image]) -> None:
    with Container(built("speech").names[0], BENTOML_PORT="3100", HF_HUB_OFFLINE="1") as speech:
        speech.wait("healthy")


def test_nothing_secret_is_in_an_image_s_environment_or_history(
    built: Callable[[str], Image],
) -> None:
    for name in ("gateway", "conversation", "speech", "transcription", "chat"):
        reference = built(name).names[0]
        known = docker.call("image", "inspect", reference)
        told = docker.call("history", "--no-trunc", reference)
        for word in ("hf_", "sk-", "TOKEN=", "PASSWORD", "SECRET="):
            assert word not in known
            assert word not in told
