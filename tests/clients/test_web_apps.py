"""Requests, with all fields, of applications that are too large to run in a test."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.decoding import decode
from tests.e2e.server import MODEL
from tests.whisper import PLAIN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.server import Server

WEBUI, KOKORO, LOCALAI = "Open WebUI", "Clients of Kokoro-FastAPI", "Clients of LocalAI"
# Open WebUI tells who asks, in headers; names may be in any script.
USER = {
    "X-OpenWebUI-User-Name": "Anna%20M%C3%BCller",
    "X-OpenWebUI-User-Id": "7d1c",
    "X-OpenWebUI-User-Email": "anna@example.org",
    "X-OpenWebUI-User-Role": "user",
    "X-OpenWebUI-Chat-Id": "local:1",
}
works = pytest.mark.works


@pytest.fixture
def client(stack: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{stack.url}/v1", timeout=60) as made:
        yield made


def ignored(answer: httpx.Response) -> set[str]:
    """Return the fields that the answer says were ignored."""
    assert answer.status_code == 200, answer.text
    return {one.strip() for one in answer.headers.get("x-ignored-fields", "").split(",") if one}


# Open WebUI


@works(WEBUI, "lists of models and voices")
def test_open_webui_lists_voices_by_id_and_name(client: httpx.Client) -> None:
    voices = client.get("/audio/voices").json()["voices"]
    assert "alloy" in {one["id"] for one in voices}
    assert all(one["name"] for one in voices)
    models = client.get("/audio/models").json()["models"]
    assert "tts-1" in {one["id"] for one in models}
    assert MODEL in {one["id"] for one in client.get("/models").json()["data"]}


@works(WEBUI, "speech and transcription")
def test_open_webui_speaks(client: httpx.Client) -> None:
    body = {"input": "Hello there.", "voice": "alloy", "model": "tts-1"}
    answer = client.post("/audio/speech", json=body, headers=USER)
    assert ignored(answer) == set()
    assert answer.headers["content-type"] == "audio/mpeg"
    assert decode(answer.content, sample_rate_hz=24_000).size > 12_000


@works(WEBUI, "speech and transcription")
def test_open_webui_hears(client: httpx.Client, recording: Path) -> None:
    files = {"file": ("speech.wav", recording.read_bytes())}
    for fields in ({"model": "whisper-1"}, {"model": "whisper-1", "language": "en"}):
        answer = client.post("/audio/transcriptions", data=fields, files=files, headers=USER)
        assert answer.json()["text"] == PLAIN


@works(WEBUI, "chat, streamed, with what its own server reads")
def test_open_webuis_own_fields_are_ignored_and_named(
    client: httpx.Client, question: str, answer: str
) -> None:
    own = {
        "chat_id": "local:1",
        "features": {"web_search": False, "image_generation": False},
        "variables": {"{{USER_NAME}}": "Anna"},
        "filter_ids": [],
        "background_tasks": {"title_generation": True},
    }
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.0,
        "max_tokens": 200,
        "session_id": "s1",  # vLLM has a field of this name
        **own,
    }
    got = client.post("/chat/completions", json=body, headers=USER)
    assert ignored(got) == set(own)
    events = [line[6:] for line in got.text.splitlines() if line]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    said = [one["delta"].get("content") or "" for chunk in chunks for one in chunk["choices"]]
    assert "".join(said) == answer
    assert chunks[-1]["usage"]["completion_tokens"] > 0


@works(WEBUI, "titles by `max_completion_tokens`")
def test_open_webui_asks_for_a_title(client: httpx.Client, question: str, answer: str) -> None:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "stream": False,
        "max_completion_tokens": 200,
    }
    got = client.post("/chat/completions", json=body)
    assert got.json()["choices"][0]["message"]["content"] == answer


# Kokoro's


@works(KOKORO, "speech, with fields that only Kokoro has")
def test_kokoros_fields_are_ignored_and_named(client: httpx.Client) -> None:
    own = {
        "download_format": "mp3",
        "return_download_link": False,
        "lang_code": "a",
        "volume_multiplier": 1.0,
        "normalization_options": {"normalize": True, "unit_normalization": False},
    }
    body = {"model": "tts-1", "voice": "alloy", "input": "Hello there.", "stream": True}
    answer = client.post(
        "/audio/speech", json={**body, "response_format": "mp3", "speed": 1, **own}
    )
    assert ignored(answer) >= set(own)
    assert decode(answer.content, sample_rate_hz=24_000).size > 12_000


@works(KOKORO, "lists of voices")
def test_kokoros_clients_list_voices(client: httpx.Client) -> None:
    named = {one["id"] for one in client.get("/audio/voices").json()["voices"]}
    assert {"alloy", "echo"} <= named


# LocalAI's


@works(LOCALAI, "chat, speech and transcription, with fields that only LocalAI has")
def test_localais_fields_are_ignored_and_named(
    client: httpx.Client, recording: Path, question: str, answer: str
) -> None:
    messages = [{"role": "user", "content": question}]
    chat = {"model": MODEL, "messages": messages, "top_k": 40, "mirostat": 0, "n_keep": 0}
    got = client.post("/chat/completions", json={**chat, "backend": "llama-cpp"})
    assert ignored(got) == {"mirostat", "n_keep", "backend"}
    assert got.json()["choices"][0]["message"]["content"] == answer
    speech = {"model": "tts-1", "voice": "alloy", "input": "Hello.", "backend": "piper"}
    assert ignored(client.post("/audio/speech", json=speech)) == {"backend"}
    fields = {"model": "whisper-1", "backend": "whisper", "prompt": "", "language": ""}
    files = {"file": ("speech.wav", recording.read_bytes())}
    heard = client.post("/audio/transcriptions", data=fields, files=files)
    assert ignored(heard) == {"backend"}
    assert heard.json()["text"] == PLAIN


# Others


@works("Vercel's AI SDK", "transcription as its older versions ask, segments with json")
def test_an_older_ai_sdk_asks_for_segments_with_json(client: httpx.Client, recording: Path) -> None:
    fields = {
        "model": "gpt-4o-mini-transcribe",
        "response_format": "json",
        "timestamp_granularities[]": "segment",
        "temperature": "0",
    }
    files = {"file": ("audio.wav", recording.read_bytes(), "audio/wav")}
    heard = client.post("/audio/transcriptions", data=fields, files=files)
    assert heard.status_code == 200, heard.text
    assert heard.json()["text"] == PLAIN
