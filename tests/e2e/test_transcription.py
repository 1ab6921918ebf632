"""The server transcribes its own speech: real engines, OpenAI's SDK, real files."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import TYPE_CHECKING, Any

import av
import httpx
import numpy as np
import openai
import pytest
import srt
import webvtt

from services.audio.encode import to_wav
from tests.e2e.server import MODEL, Server, eventually
from tests.parrot import parrot
from tests.whisper import PLAIN as SENTENCE
from tests.whisper import RATE_HZ, TRANSLATIONS, speak

if TYPE_CHECKING:
    from pathlib import Path

PAUSE_S = 1.0


@pytest.fixture(scope="module")
def spoken(stack: Server) -> bytes:
    """Return the sentence as this server's own voice says it."""
    with stack.client() as client:
        return say(client)


def say(client: openai.OpenAI, response_format: Any = "wav", text: str = SENTENCE) -> bytes:
    answer = client.audio.speech.create(
        model="tts-1", voice="alloy", input=text, response_format=response_format
    )
    return answer.content


@pytest.mark.parametrize("response_format", ["mp3", "opus", "aac", "flac", "wav"])
def test_what_the_server_says_in_any_format_it_hears(
    client: openai.OpenAI, response_format: Any
) -> None:
    file = (f"speech.{response_format}", say(client, response_format))
    assert client.audio.transcriptions.create(model="whisper-1", file=file).text == SENTENCE


def test_subtitles_are_read_by_other_parsers(client: openai.OpenAI, spoken: bytes) -> None:
    file = ("speech.wav", spoken)
    made: Any = {
        kind: client.audio.transcriptions.create(model="whisper-1", file=file, response_format=kind)
        for kind in ("srt", "vtt", "text")
    }
    (cue,) = srt.parse(made["srt"])
    assert (cue.content, made["text"]) == (SENTENCE, f"{SENTENCE}\n")
    assert 0 <= cue.start.total_seconds() < 1
    assert 1.5 < cue.end.total_seconds() < 4
    (caption,) = webvtt.from_string(made["vtt"])
    assert caption.text == SENTENCE


def test_words_follow_one_another_within_their_segment(
    client: openai.OpenAI, spoken: bytes
) -> None:
    answer = client.audio.transcriptions.create(
        model="whisper-1",
        file=("speech.wav", spoken),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert answer.language == "english"
    assert answer.words is not None
    assert [word.word for word in answer.words] == SENTENCE.split()
    times = [time for word in answer.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert times[-1] <= answer.duration + 0.1


def test_tokens_come_with_what_the_model_thinks_of_them(
    client: openai.OpenAI, spoken: bytes
) -> None:
    answer = client.audio.transcriptions.create(
        model="gpt-4o-transcribe", file=("speech.wav", spoken), include=["logprobs"]
    )
    assert answer.logprobs is not None
    data = bytes(int(byte) for one in answer.logprobs for byte in one.bytes or [])
    assert data.decode().strip() == SENTENCE
    assert all(one.logprob is not None and one.logprob <= 0 for one in answer.logprobs)


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
@pytest.mark.parametrize(("german", "english"), TRANSLATIONS.items())
def test_another_language_is_found_and_translated(
    client: openai.OpenAI, german: str, english: str
) -> None:
    file = ("speech.wav", to_wav(speak(german, "gmw/de", language="de").samples, RATE_HZ))
    found = client.audio.transcriptions.create(
        model="whisper-1", file=file, response_format="verbose_json"
    )
    assert (found.text, found.language) == (german, "german")
    assert client.audio.translations.create(model="whisper-1", file=file).text == english


def test_eight_at_once_are_heard_as_one_is(client: openai.OpenAI, spoken: bytes) -> None:
    def hear(_: int) -> str:
        file = ("speech.wav", spoken)
        return client.audio.transcriptions.create(model="whisper-1", file=file).text

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(hear, range(8))) == {SENTENCE}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.mp3", b""),
        ("a.mp3", b"\x00" * 4000),
        ("a.wav", b"RIFF\x00\x00\x00\x00WAVE"),
        ("a.mp3", b"%PDF-1.7 not a sound"),
    ],
    ids=["empty", "zeros", "a head alone", "a page"],
)
def test_what_is_no_sound_is_a_clear_400_and_the_next_is_heard(
    client: openai.OpenAI, spoken: bytes, name: str, data: bytes
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.audio.transcriptions.create(model="whisper-1", file=(name, data))
    assert (refused.value.param, refused.value.code) == ("file", "invalid_audio")
    assert client.audio.transcriptions.create(model="whisper-1", file=("b", spoken)).text


def test_half_a_file_is_heard_as_far_as_it_goes(client: openai.OpenAI, spoken: bytes) -> None:
    half = ("speech.wav", spoken[: len(spoken) // 2])
    answer = client.audio.transcriptions.create(model="whisper-1", file=half)
    assert answer.usage is not None
    assert answer.usage.seconds <= 2  # type: ignore[union-attr]


def test_a_worker_that_is_killed_leaves_chat_and_speech_alone_and_comes_back(
    stack: Server, client: openai.OpenAI, spoken: bytes
) -> None:
    worker = stack.worker("transcription")
    worker.kill()
    eventually(lambda: stack.status() == "degraded", 10, "the door says that it lacks a role")
    question: Any = [{"role": "user", "content": "Hello"}]
    assert client.chat.completions.create(model=MODEL, messages=question).choices
    assert say(client)
    with pytest.raises(openai.InternalServerError):
        client.audio.transcriptions.create(model="whisper-1", file=("a.wav", spoken))

    def hears() -> bool:  # itself: the role is up, with pocketsphinx, before its model is loaded
        states = httpx.get(f"{stack.url}/readyz", timeout=5).json()["detail"]
        return bool(states["transcription"] == "ready")

    eventually(hears, 60, "transcription is back")
    heard = client.audio.transcriptions.create(model="whisper-1", file=("a.wav", spoken))
    assert heard.text == SENTENCE


def test_more_than_an_hour_is_streamed_in_flat_memory(home: Path) -> None:
    model = parrot(home / "parrot")
    service = "services.transcription.service:Transcription"
    with (
        Server(home, service, BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL=str(model)) as server,
        server.client() as client,
    ):
        worker = server.worker("transcription")
        held: list[int] = []
        seconds: list[float] = []
        stream = client.with_options(timeout=200).audio.transcriptions.create(
            model="whisper-1",
            file=("a.ogg", hours(1.2)),
            response_format="verbose_json",
            stream=True,
        )
        for event in stream:
            if event.type == "transcript.text.segment":
                seconds.append(event.end)
                held.append(worker.memory_info().rss)
        assert len(seconds) > 120
        assert seconds == sorted(seconds)
        assert seconds[-1] > 1.2 * 3600 - 60
        # An hour as samples is 220 MiB; a sixth of it fills what is held at any time.
        sixth = len(held) // 6
        assert median(held[-sixth:]) - median(held[sixth : 2 * sixth]) < 40 << 20
        assert max(held) - median(held) < 100 << 20


def hours(count: float) -> bytes:
    """Return a file of so many hours: a sentence and a pause, again and again."""
    said = speak(SENTENCE).samples
    turn = np.concatenate([said, np.zeros(int(PAUSE_S * RATE_HZ), dtype=np.float32)])
    whole = (turn * 32767).astype(np.int16)
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libopus", 16_000, layout="mono")
        stream.bit_rate = 12_000
        for index in range(int(count * 3600 * RATE_HZ / whole.size) + 1):
            frame = av.AudioFrame.from_ndarray(whole[np.newaxis], format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE_HZ, index * whole.size
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()
