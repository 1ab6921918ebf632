"""Speech through the gateway: decodable, really streamed, and intelligible."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING

import httpx
import numpy as np
import openai
import pytest

from tests.decoding import decode
from tests.hearing import HEARING_RATE_HZ, four_digits_heard

if TYPE_CHECKING:
    from tests.e2e.server import Server

TEXT = "The quick brown fox jumps over the lazy dog."
LONG = "The server answers every request that it accepts, one sentence after another. " * 50
FORMATS = ["mp3", "opus", "aac", "flac", "wav", "pcm"]
RATE_HZ = 24_000
_PADDING_S = 0.15  # what codecs put around the sound


def spoken(client: openai.OpenAI, text: str = TEXT, format_: str = "wav", **more: object) -> bytes:
    body = {"model": "tts-1", "voice": "alloy", "input": text, "response_format": format_, **more}
    return client.audio.speech.create(**body).content  # type: ignore[arg-type]


def samples(data: bytes, format_: str, rate_hz: int = RATE_HZ) -> np.ndarray:
    if format_ == "pcm":
        return np.frombuffer(data, "<i2").astype(np.float32) / 32_768
    return decode(data, sample_rate_hz=rate_hz)


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_decodes_to_the_same_seconds(client: openai.OpenAI, format_: str) -> None:
    wanted_s = len(samples(spoken(client), "wav")) / RATE_HZ
    found = samples(spoken(client, format_=format_), format_)
    assert 2 < wanted_s < 5
    assert len(found) / RATE_HZ == pytest.approx(wanted_s, abs=_PADDING_S)
    assert float(np.sqrt(np.mean(found**2))) > 0.01  # not silence


@pytest.mark.parametrize("format_", FORMATS)
def test_the_first_bytes_leave_long_before_the_last_frame_is_made(
    stack: Server, format_: str
) -> None:
    body = {"model": "tts-1", "voice": "alloy", "input": LONG, "response_format": format_}
    began = time.perf_counter()
    with httpx.stream("POST", f"{stack.url}/v1/audio/speech", json=body, timeout=60) as answer:
        pieces = answer.iter_raw()
        sizes = [len(next(pieces))]
        first_s = time.perf_counter() - began
        sizes += [len(piece) for piece in pieces]
    total_s = time.perf_counter() - began
    assert answer.status_code == 200
    assert sizes[0] < sum(sizes) / 4
    assert len(sizes) > 4
    assert first_s < total_s / 2


def test_events_carry_the_same_audio_and_its_usage(stack: Server, client: openai.OpenAI) -> None:
    body = {"model": "tts-1", "voice": "alloy", "input": TEXT, "response_format": "pcm"}
    answer = httpx.post(f"{stack.url}/v1/audio/speech", json={**body, "stream_format": "sse"})
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line]
    audio = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert answer.headers["content-type"].startswith("text/event-stream")
    bare = len(spoken(client, format_="pcm"))
    assert len(audio) == pytest.approx(bare, rel=0.05)  # espeak's noise differs each time
    assert {event["type"] for event in events[:-1]} == {"speech.audio.delta"}
    usage = events[-1]["usage"]
    assert events[-1]["type"] == "speech.audio.done"
    assert usage["input_tokens"] == len(TEXT)
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_speed_changes_how_long_it_takes_to_say(client: openai.OpenAI) -> None:
    slow, usual, quick = (len(spoken(client, speed=speed)) for speed in (0.5, 1.0, 2.0))
    assert slow > 1.4 * usual
    assert quick < 0.75 * usual


def test_more_than_a_hundred_languages_are_listed(stack: Server) -> None:
    listed = httpx.get(f"{stack.url}/v1/audio/voices").json()
    assert len({language for voice in listed["data"] for language in voice["languages"]}) > 100
    named = {voice["id"]: voice["name"] for voice in listed["voices"]}
    assert named == {voice["id"]: voice["name"] for voice in listed["data"]}
    assert httpx.get(f"{stack.url}/v1/audio/speech/voices").json() == listed
    models = httpx.get(f"{stack.url}/v1/audio/models").json()["models"]
    assert {"espeak", "tts-1"} <= {model["id"] for model in models}
    one = httpx.get(f"{stack.url}/v1/audio/voices/nova").json()
    assert one["id"] == "nova"
    assert one["alias_of"]


def test_every_voice_of_openai_speaks_and_several_differ(client: openai.OpenAI) -> None:
    names = (
        *("alloy", "ash", "ballad", "coral", "echo", "fable", "nova", "onyx", "sage"),
        *("shimmer", "verse", "marin", "cedar"),
    )
    heard = {name: spoken(client, "Hello.", voice=name) for name in names}
    assert all(len(data) > 5000 for data in heard.values())
    assert len(set(heard.values())) >= 6


def test_an_unknown_voice_is_404_before_any_audio(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        spoken(client, voice="nobody")
    assert 400 <= caught.value.status_code < 500
    assert caught.value.param == "voice"


@pytest.mark.parametrize("voice", ["alloy", "sage"])
@pytest.mark.parametrize(
    "said", ["one two three four", "seven three nine one", "zero one two three"]
)
def test_a_recogniser_hears_the_digits_that_were_spoken(
    client: openai.OpenAI, voice: str, said: str
) -> None:
    speech = samples(spoken(client, said, "mp3", voice=voice), "mp3", HEARING_RATE_HZ)
    assert four_digits_heard(speech) == said
