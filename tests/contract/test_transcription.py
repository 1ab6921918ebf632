"""OpenAI's Python SDK, major versions 2 and 3, with the gateway: transcription of files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
import srt
import webvtt

from tests.hearing_app import recording

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openai import OpenAI

TEXT = "hello there|||||how are you"
HEARD = "hello there how are you"


@pytest.fixture
def client(fresh: Any, key: str) -> Iterator[OpenAI]:
    with openai.OpenAI(base_url=f"{fresh.url}/v1", api_key=key, max_retries=0) as made:
        yield made


@pytest.fixture
def file() -> tuple[str, bytes]:
    return "call.mp3", recording(TEXT)  # the name lies; what counts is what is in it


@pytest.mark.parametrize("model", ["whisper-1", "gpt-4o-transcribe", "fake"])
def test_a_transcription(client: OpenAI, file: Any, model: str) -> None:
    answer = client.audio.transcriptions.create(model=model, file=file)
    assert answer.text == HEARD
    assert answer.usage is not None
    assert (answer.usage.type, answer.usage.seconds) == ("duration", 3)  # type: ignore[union-attr]


def test_every_text_format_comes_as_it_is(client: OpenAI, file: Any) -> None:
    formats: Any = {
        name: client.audio.transcriptions.create(model="whisper-1", file=file, response_format=name)
        for name in ("text", "srt", "vtt")
    }
    assert formats["text"] == HEARD + "\n"
    assert [cue.content for cue in srt.parse(formats["srt"])] == ["hello there", "how are you"]
    assert [cue.text for cue in webvtt.from_string(formats["vtt"])] == [
        "hello there",
        "how are you",
    ]


def test_words_and_segments_with_their_times(client: OpenAI, file: Any) -> None:
    answer = client.audio.transcriptions.create(
        model="whisper-1",
        file=file,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
        language="en",
    )
    assert (answer.language, answer.duration, answer.text) == ("english", 2.7, HEARD)
    assert answer.segments is not None
    assert answer.words is not None
    assert [(one.start, one.end) for one in answer.segments] == [(0.0, 1.1), (1.6, 2.7)]
    assert [one.word for one in answer.words] == HEARD.split()
    assert all(one.start < one.end for one in answer.words)


def test_a_stream_of_events_is_typed_as_the_sdk_has_it(client: OpenAI, file: Any) -> None:
    with client.audio.transcriptions.create(model="whisper-1", file=file, stream=True) as stream:
        *deltas, done = stream
    assert [one.type for one in deltas] == ["transcript.text.delta"] * 2
    assert done.type == "transcript.text.done"
    assert done.text == "".join(one.delta for one in deltas) == HEARD  # type: ignore[union-attr]
    assert done.usage is not None
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens


def test_lists_and_objects_arrive_as_the_sdk_writes_them(
    client: OpenAI, fresh: Any, file: Any
) -> None:
    answer = client.audio.transcriptions.create(
        model="gpt-4o-transcribe",
        file=file,
        include=["logprobs"],
        chunking_strategy={"type": "server_vad", "threshold": 0.7, "silence_duration_ms": 300},
        prompt="Anna",
        temperature=0.2,
        extra_body={"keywords": ["Anna", "Bonn"], "languages": ["de"]},
    )
    assert answer.logprobs is not None
    assert "".join(one.token or "" for one in answer.logprobs).strip() == HEARD
    request = fresh.ear.requests[-1]
    assert (request.cutting.threshold, request.cutting.silence_duration_ms) == (0.7, 300)
    assert (request.keywords, request.languages) == (("Anna", "Bonn"), ("de",))
    assert (request.prompt, request.temperature) == ("Anna", 0.2)


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_a_translation(client: OpenAI, file: Any) -> None:
    assert client.audio.translations.create(model="whisper-1", file=file).text == HEARD.upper()
    verbose = client.audio.translations.create(
        model="whisper-1", file=file, response_format="verbose_json"
    )
    assert verbose.segments is not None
    assert [one.text for one in verbose.segments] == [" HELLO THERE", " HOW ARE YOU"]


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"language": "xx"}, openai.BadRequestError, "language"),
        ({"response_format": "diarized_json"}, openai.BadRequestError, "response_format"),
        ({"model": "gpt-4o-transcribe-diarize"}, openai.BadRequestError, "model"),
        ({"model": "whisper-9"}, openai.NotFoundError, "model"),
        ({"file": ("a.wav", b"nothing to hear")}, openai.BadRequestError, "file"),
        ({"file": ("a.wav", b"")}, openai.BadRequestError, "file"),
    ],
)
def test_what_will_not_do_is_an_error_of_the_sdk_that_names_the_field(
    client: OpenAI, file: Any, fields: Any, error: type[openai.APIStatusError], param: str
) -> None:
    with pytest.raises(error) as caught:
        client.audio.transcriptions.create(**{"model": "whisper-1", "file": file, **fields})
    assert set(caught.value.response.json()["error"]) == {"message", "type", "param", "code"}
    assert caught.value.param == param


def test_an_engine_that_fails_in_the_middle_ends_no_stream_as_if_it_were_whole(
    client: OpenAI, fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh.ear, "delay_s", 0.1)
    file = ("a.wav", recording("well||||failing"))
    stream = client.audio.transcriptions.create(model="whisper-1", file=file, stream=True)
    assert next(stream).type == "transcript.text.delta"
    with pytest.raises((openai.APIConnectionError, httpx.RemoteProtocolError)):
        next(stream)
