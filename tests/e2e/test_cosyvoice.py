"""The cosyvoice engine in a real server process, with upstream's code and a tiny model."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
from websockets.sync.client import connect

from services.speech.engines.cosyvoice.upstream_code import default_root
from tests.decoding import decode, sound_alike
from tests.e2e.server import (
    MODEL,
    ROOT,
    Server,
    cosyvoice_python,
    environment,
    eventually,
    free_port,
)
from tests.sounds import FORMATS
from tests.speech_app import recording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENGINE = "BENTOVOX_SPEECH__COSYVOICE__"
SERVICE = "services.speech.service:Speech"
CODE = Path(os.environ.get(f"{ENGINE}CODE") or default_root())
SLOTS, QUEUE = 8, 8
RATE_HZ = 24_000
HELLO = "Good morning to you."
SENTENCE = "This is one sentence that goes on for a while without any pause in it at all. "
BACK_S = 60
WAV: Any = ("anna.wav", recording(3.0), "audio/wav")

pytestmark = [
    pytest.mark.skipif(
        cosyvoice_python() is None,
        reason="COSYVOICE_PYTHON is unset, and there is no .nox/cosyvoice",
    ),
    pytest.mark.skipif(
        not (CODE / "source.json").exists(), reason=f"CosyVoice's code is not in {CODE}"
    ),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of family 2, made where torch is."""
    root = tmp_path_factory.mktemp("model")
    command = [str(cosyvoice_python()), "-m", "tests.cosyvoice.tiny", "2", str(root), str(CODE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def told(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The settings of a service that speaks with it."""
    return {
        "BENTOVOX_SPEECH__ENGINE": "cosyvoice",
        f"{ENGINE}MODEL": str(model),
        f"{ENGINE}CODE": str(CODE),
        "BENTOVOX_SPEECH__STORE": str(tmp_path_factory.mktemp("store")),
        "BENTOVOX_SPEECH__SLOTS": str(SLOTS),
        "BENTOVOX_SPEECH__QUEUE": str(QUEUE),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",  # no built-in voices: they would be made by a Kokoro from the hub
    }


@pytest.fixture(scope="module")
def served(home: Path, told: dict[str, str]) -> Iterator[Server]:
    with Server(home, SERVICE, python=cosyvoice_python(), **told) as server:
        yield server


@pytest.fixture
def speech(served: Server) -> Server:
    """The service, back from what another test did to it."""
    eventually(lambda: served.status() == "ready", BACK_S, "the worker is back")
    return served


@pytest.fixture(scope="module")
def voice(served: Server) -> str:
    return registered(served, "Anna")


def registered(server: Server, name: str) -> str:
    """Return the id of a voice that the SDK registers."""
    with server.client() as client:
        consent = client.audio.voice_consents.create(language="en", name=name, recording=WAV)
        made = client.audio.voices.create(
            audio_sample=WAV, consent=consent.id, name=name, extra_body={"text": "Hello there."}
        )
    return made.id


def asked(voice: str, text: str = HELLO, **more: Any) -> dict[str, Any]:
    return {"model": "tts-1", "voice": voice, "input": text, "response_format": "pcm", **more}


def said(server: Server, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/audio/speech", json=body, timeout=60)


def all_at_once(server: Server, body: dict[str, Any], times: int) -> list[httpx.Response]:
    async def send() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits()) as client:
            waiting = (
                client.post(f"{server.url}/v1/audio/speech", json=body) for _ in range(times)
            )
            return list(await asyncio.gather(*waiting))

    return asyncio.run(send())


def no_slot_in_use(server: Server) -> bool:
    return server.sample("bentovox_slots_in_use", role="speech") == 0


def features(store: str) -> dict[Path, tuple[int, int]]:
    """Return every file of features with what would change if it were written again."""
    return {
        path: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in Path(store).rglob("features/**/*")
        if path.is_file()
    }


def test_it_is_ready_only_after_it_spoke_and_the_log_tells_the_steps(speech: Server) -> None:
    log = speech.log.read_text()
    steps = ["loading ", "loaded CosyVoice family 2 on cpu", "warmed up in ", "ready: cosyvoice"]
    assert [log.index(step) for step in steps] == sorted(log.index(step) for step in steps)


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_holds_the_same_sentence(speech: Server, voice: str, format_: str) -> None:
    whole = len(said(speech, asked(voice, seed=1)).content) / 2 / RATE_HZ
    answer = said(speech, asked(voice, seed=1, response_format=format_))
    assert answer.status_code == 200
    if format_ != "pcm":
        length_s = len(decode(answer.content, sample_rate_hz=RATE_HZ)) / RATE_HZ
        assert abs(length_s - whole) < 0.1


def test_events_carry_what_a_stream_carries(speech: Server, voice: str) -> None:
    answer = said(speech, asked(voice, seed=1, stream_format="sse"))
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    events = [json.loads(line) for line in lines if line != "[DONE]"]
    audio = b"".join(base64.b64decode(event["audio"]) for event in events if "audio" in event)
    assert events[-1]["type"] == "speech.audio.done"
    assert audio == said(speech, asked(voice, seed=1)).content


def test_eight_at_once_say_what_one_says(speech: Server, voice: str) -> None:
    alone = said(speech, asked(voice, seed=3)).content
    answers = all_at_once(speech, asked(voice, seed=3), SLOTS)
    assert [answer.status_code for answer in answers] == [200] * SLOTS
    assert all(sound_alike(answer.content, alone) for answer in answers)


def test_overload_is_429_and_who_was_let_in_hears_all_of_it(speech: Server, voice: str) -> None:
    worker = speech.worker("speech").pid
    answers = all_at_once(speech, asked(voice, seed=3), 3 * SLOTS)
    counts = Counter(answer.status_code for answer in answers)
    assert set(counts) == {200, 429}
    assert counts[200] >= SLOTS
    first, *others = [answer.content for answer in answers if answer.status_code == 200]
    assert all(sound_alike(other, first) for other in others)
    for answer in answers:
        if answer.status_code == 429:
            assert float(answer.headers["retry-after"]) > 0
    assert speech.worker("speech").pid == worker


def test_a_client_that_hangs_up_frees_its_slot(speech: Server, voice: str) -> None:
    with httpx.stream(
        "POST", f"{speech.url}/v1/audio/speech", json=asked(voice, SENTENCE * 20), timeout=60
    ) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_bytes()
        next(pieces)
        assert speech.sample("bentovox_slots_in_use", role="speech") == 1
    eventually(lambda: no_slot_in_use(speech), 5, "the slot is free")
    assert said(speech, asked(voice)).status_code == 200


def test_text_goes_in_and_audio_comes_out_of_a_socket(speech: Server, voice: str) -> None:
    url = speech.url.replace("http", "ws") + "/v1/audio/speech/stream"
    audio, events = b"", []
    with connect(url, proxy=None, max_size=None) as connection:
        for message in (
            {
                "type": "session.config",
                "voice": voice,
                "stream_audio": True,
                "response_format": "pcm",
            },
            {"type": "input.text", "text": "This is the first sentence "},
            {"type": "input.text", "text": "of two. This is the other one."},
            {"type": "input.done"},
        ):
            connection.send(json.dumps(message))
        while "session.done" not in events:
            data = connection.recv(timeout=30)
            if isinstance(data, bytes):
                audio += data
            else:
                events.append(json.loads(data)["type"])
    assert "error" not in events
    assert len(audio) / 2 / RATE_HZ > 1


def test_a_killed_worker_comes_back_and_uses_the_features_that_it_kept(
    speech: Server, voice: str, told: dict[str, str]
) -> None:
    before = said(speech, asked(voice, seed=1)).content
    kept = features(told["BENTOVOX_SPEECH__STORE"])
    assert kept
    worker = speech.worker("speech")
    worker.kill()
    worker.wait(10)
    eventually(lambda: speech.status() == "ready", BACK_S, "the worker is back")
    assert said(speech, asked(voice, seed=1)).content == before
    assert features(told["BENTOVOX_SPEECH__STORE"]) == kept


def test_a_voice_that_is_deleted_is_gone(speech: Server) -> None:
    made = registered(speech, "Ben")
    with speech.client() as client:
        client.audio.voices.delete(made)
        with pytest.raises(openai.NotFoundError):
            client.audio.speech.create(model="tts-1", voice=made, input=HELLO)


def without_flow(told: dict[str, str], folder: Path) -> dict[str, str]:
    copied = shutil.copytree(told[f"{ENGINE}MODEL"], folder / "model")
    (copied / "flow.pt").unlink()
    return {"MODEL": str(copied)}


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        (without_flow, "flow.pt"),
        (lambda _, folder: {"CODE": str(folder)}, "python -m ci cosyvoice"),
        (lambda *_: {"MODEL": "not/a/hub/id"}, "not/a/hub/id"),
    ],
    ids=["a file", "the code", "the model"],
)
def test_what_cannot_work_is_one_line_and_no_server(
    told: dict[str, str],
    tmp_path: Path,
    setting: Callable[[dict[str, str], Path], dict[str, str]],
    named: str,
) -> None:
    given = {f"{ENGINE}{name}": value for name, value in setting(told, tmp_path).items()}
    done = subprocess.run(
        [str(cosyvoice_python()), "-m", "bentoml", "serve", SERVICE, "--port", str(free_port())],
        cwd=ROOT,
        env=environment(tmp_path, **{**told, **given}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode not in {0, -9}, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("bentovox: ")
    assert named in line


def test_at_the_end_a_stream_is_finished(speech: Server, voice: str) -> None:
    """The last test with this service; what it kept is the next one's."""
    body = asked(voice, SENTENCE * 2, seed=2)
    whole = said(speech, body).content
    url = f"{speech.url}/v1/audio/speech"
    with httpx.stream("POST", url, json=body, timeout=60) as answer:
        pieces = answer.iter_bytes()
        heard = next(pieces)
        speech.process.send_signal(signal.SIGTERM)
        heard += b"".join(pieces)
    assert sound_alike(heard, whole)
    assert speech.process.wait(30) == 0


def test_the_stack_holds_vllm_and_cosyvoice_and_the_voices_that_were_kept(
    home: Path, told: dict[str, str], voice: str
) -> None:
    kept = features(told["BENTOVOX_SPEECH__STORE"])
    with Server(home, BENTOVOX_PROFILE="demo", **told) as stack, stack.client() as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello"}]
        )
        assert answer.choices[0].message.content
        spoken = client.audio.speech.create(**asked(voice))
        assert len(spoken.content) / 2 / RATE_HZ > 0.3
    assert features(told["BENTOVOX_SPEECH__STORE"]) == kept
