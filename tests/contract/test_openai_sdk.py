"""OpenAI's Python SDK, major versions 2 and 3, with the gateway."""

from __future__ import annotations

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from services.settings.sections import SPEECH_MODELS, TRANSCRIPTION_MODELS
from tests.decoding import decode
from tests.fakes.speech_engine import CHARACTER_S
from tests.sounds import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from openai import OpenAI

MODEL = "fake-chat"
HELLO: Any = [{"role": "user", "content": "Hello to you"}]
SPEECH: Any = {"model": "tts-1", "voice": "alloy", "input": "hello there"}
TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture
def client(fresh: Any, key: str) -> Iterator[OpenAI]:
    with openai.OpenAI(base_url=f"{fresh.url}/v1", api_key=key, max_retries=0) as made:
        yield made


def four_keys(error: openai.APIStatusError) -> dict[str, Any]:
    body = error.response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert error.request_id == error.response.headers["x-request-id"]
    found: dict[str, Any] = body["error"]
    return found


def until(condition: Callable[[], bool]) -> None:
    """Wait for a state of the server's thread, for at most a second."""
    end = time.monotonic() + 1
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


# Chat


def test_a_chat_completion(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content == "Hello to you"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage
    assert answer.usage.total_tokens == 6
    assert answer._request_id


def test_a_stream_is_the_same_words(client: OpenAI) -> None:
    stream = client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    chunks = list(stream)
    words = [chunk.choices[0].delta.content for chunk in chunks]
    assert [word for word in words if word] == ["Hello", "to", "you"]
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_tool_call_whole_and_streamed(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, tools=[TOOL])
    calls = answer.choices[0].message.tool_calls
    assert calls
    assert calls[0].type == "function"
    assert calls[0].function.name == "weather"
    assert json.loads(calls[0].function.arguments) == {"city": "Bonn"}
    stream = client.chat.completions.create(model=MODEL, messages=HELLO, tools=[TOOL], stream=True)
    deltas = [chunk.choices[0].delta.tool_calls for chunk in stream]
    streamed = [call for delta in deltas if delta for call in delta]
    assert streamed[0].function
    assert streamed[0].function.arguments == calls[0].function.arguments


async def test_the_async_client_streams_too(fresh: Any, key: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{fresh.url}/v1", api_key=key) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        words = [chunk.choices[0].delta.content async for chunk in stream]
    assert [word for word in words if word] == ["Hello", "to", "you"]


def test_a_stream_that_breaks_off_is_an_error_to_the_client(client: OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "now break here"}]
    stream = client.chat.completions.create(model=MODEL, messages=messages, stream=True)
    words: list[str | None] = []

    def read() -> None:
        words.extend(chunk.choices[0].delta.content for chunk in stream)

    with pytest.raises(Exception, match=r"(?i)incomplete|closed|error"):
        read()
    assert "here" not in words


def test_a_client_that_leaves_a_stream_frees_its_slot(client: OpenAI, fresh: Any) -> None:
    fresh.chat.delay_s = 5
    impatient = client.with_options(timeout=0.2)
    with pytest.raises(openai.APITimeoutError):
        impatient.chat.completions.create(model=MODEL, messages=HELLO)
    until(lambda: fresh.door.admission.in_use == 0)


def test_headers_are_what_openai_sends(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.headers["openai-processing-ms"].isdigit()
    for kind in ("limit", "remaining", "reset"):
        assert raw.headers[f"x-ratelimit-{kind}-requests"]
    assert raw.parse().choices


def test_the_request_id_is_the_clients_on_all_hops(client: OpenAI, fresh: Any) -> None:
    headers = {"x-request-id": "mine-7"}
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=HELLO, extra_headers=headers
    )
    assert raw.headers["x-request-id"] == "mine-7"
    assert fresh.chat.headers[-1]["x-request-id"] == "mine-7"
    assert "authorization" not in fresh.chat.headers[-1]


# Models


def test_models_of_every_role_are_listed_and_retrieved(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    speech, hearing = [*SPEECH_MODELS], [*TRANSCRIPTION_MODELS]
    assert names == [MODEL, "fake", *speech, *hearing]  # both fakes go by one name
    for name in names:
        assert client.models.retrieve(name).id == name


# Speech


@pytest.mark.parametrize("audio_format", FORMATS)
def test_speech_in_each_format_is_decodable(client: OpenAI, audio_format: Any) -> None:
    answer = client.audio.speech.create(**SPEECH, response_format=audio_format)
    data = answer.content
    if audio_format == "pcm":
        seconds = len(data) / 2 / 24_000
    else:
        seconds = len(decode(data, sample_rate_hz=24_000)) / 24_000
    assert 0 <= seconds - len(SPEECH["input"]) * CHARACTER_S < 0.1


def test_speech_streams_and_is_the_same(client: OpenAI, tmp_path: Any) -> None:
    whole = client.audio.speech.create(**SPEECH, response_format="wav").content
    with client.audio.speech.with_streaming_response.create(
        **SPEECH, response_format="wav"
    ) as response:
        assert response.headers["content-type"] == "audio/wav"
        response.stream_to_file(tmp_path / "said.wav")
    assert (tmp_path / "said.wav").read_bytes() == whole


def test_speech_as_events_carries_the_same_audio_and_usage(client: OpenAI) -> None:
    whole = client.audio.speech.create(**SPEECH, response_format="pcm").content
    with client.audio.speech.with_streaming_response.create(
        **SPEECH, response_format="pcm", stream_format="sse"
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    audio = b"".join(
        base64.b64decode(event["audio"])
        for event in events
        if event["type"] == "speech.audio.delta"
    )
    assert audio == whole
    assert events[-1]["type"] == "speech.audio.done"
    assert events[-1]["usage"]["input_tokens"] == len(SPEECH["input"])


def test_speech_that_breaks_off_is_an_error_to_the_client(client: OpenAI) -> None:
    broken = {**SPEECH, "input": "a" * 40 + "\u2620"}
    with pytest.raises(Exception, match=r"(?i)incomplete|closed|connection"):
        client.audio.speech.create(**broken, response_format="pcm").read()


# Errors


def test_an_unknown_chat_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="none", messages=HELLO)
    assert four_keys(refused.value)["code"] == refused.value.code == "model_not_found"
    assert refused.value.param == "model"


def test_an_unknown_model_cannot_be_retrieved(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("none/such")
    assert four_keys(refused.value)["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"voice": "nobody"}, 404, "voice"),
        ({"model": "tts-9"}, 404, "model"),
        ({"response_format": "ogg"}, 400, "response_format"),
        ({"speed": 9.0}, 400, "speed"),
        ({"input": " "}, 400, "input"),
        ({"input": "x" * 4097}, 400, "input"),
        ({"extra_body": {"spede": 1}}, 400, "spede"),
    ],
)
def test_a_bad_speech_request_names_its_field(
    client: OpenAI, change: Any, status: int, param: str
) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.audio.speech.create(**{**SPEECH, **change})
    assert (refused.value.status_code, refused.value.param) == (status, param)
    assert isinstance(refused.value, openai.NotFoundError | openai.BadRequestError)
    four_keys(refused.value)


def test_an_unknown_chat_field_is_a_bad_request(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="did you mean 'temperature'") as refused:
        client.chat.completions.create(model=MODEL, messages=HELLO, extra_body={"temprature": 0})
    assert four_keys(refused.value)["code"] == "unknown_parameter"


def test_a_bad_value_in_vllms_shape_is_a_bad_request(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=MODEL, messages=[])
    assert four_keys(refused.value) == {
        "message": "messages: at least one",
        "type": "invalid_request_error",
        "param": "messages",
        "code": None,
    }


def test_a_wrong_key_is_an_authentication_error(client: OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        client.with_options(api_key="sk-wrong").models.list()
    assert four_keys(refused.value)["code"] == "invalid_api_key"
    assert "sk-wrong" not in str(refused.value)


def test_a_body_that_is_too_large_is_413(client: OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "x" * (1 << 20)}]
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model=MODEL, messages=messages)
    assert refused.value.status_code == 413
    assert four_keys(refused.value)["code"] == "request_too_large"


@pytest.mark.parametrize("path", ["/chat/completions", "/audio/speech"])
def test_another_content_type_is_415(client: OpenAI, path: str) -> None:
    headers = {"Content-Type": "text/plain"}
    with pytest.raises(openai.APIStatusError) as refused:
        client.post(path, cast_to=object, body={}, options={"headers": headers})
    assert refused.value.status_code == 415
    assert four_keys(refused.value)["code"] == "unsupported_content_type"


@pytest.mark.parametrize("path", ["/v1/none", "/invocations", "/v1/audio/none"])
def test_an_unknown_path_is_not_found(client: OpenAI, path: str) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.post(str(client.base_url.copy_with(path=path)), cast_to=object)
    assert four_keys(refused.value)["code"] == "unknown_url"


# Overload and retries


def test_an_overload_is_a_rate_limit_error_that_says_when_to_come_back(
    client: OpenAI, fresh: Any
) -> None:
    fresh.chat.refusals = [7.5]
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert refused.value.response.headers["retry-after"] == "8"
    assert refused.value.response.headers["retry-after-ms"] == "7500"
    assert four_keys(refused.value)["code"] == "rate_limit_exceeded"


def test_the_client_waits_as_long_as_it_is_told(client: OpenAI, fresh: Any) -> None:
    fresh.chat.refusals = [0.05, 0.05]
    began = time.monotonic()
    answer = client.with_options(max_retries=2).chat.completions.create(model=MODEL, messages=HELLO)
    took_s = time.monotonic() - began
    assert answer.choices[0].message.content == "Hello to you"
    assert fresh.chat.asked == 3
    assert 0.1 <= took_s < 1.1  # whole seconds would take 2, the client's own guess 1.1 and more


def test_the_doors_own_overload_is_retried_until_there_is_a_place(open_stack: Any) -> None:
    with (
        open_stack(slots=1, queue=0) as served,
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        served.chat.delay_s = 0.5
        first = pool.submit(client.chat.completions.create, model=MODEL, messages=HELLO)
        until(lambda: served.door.admission.in_use == 1)
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model=MODEL, messages=HELLO)
        served.chat.delay_s = 0
        patient = client.with_options(max_retries=5)
        assert patient.chat.completions.create(model=MODEL, messages=HELLO).choices
        assert first.result().choices


def test_a_timeout_is_the_clients_and_the_server_goes_on(client: OpenAI, fresh: Any) -> None:
    fresh.chat.delay_s = 5
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.1).chat.completions.create(model=MODEL, messages=HELLO)
    fresh.chat.delay_s = 0
    assert client.chat.completions.create(model=MODEL, messages=HELLO).choices


# WebSocket


def test_a_websocket_to_an_unknown_path_is_refused_in_the_handshake(stack: Any) -> None:
    headers = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    response = httpx.get(f"{stack.url}/v1/none", headers=headers)
    assert response.status_code == 404
    assert httpx.get(f"{stack.url}/livez").status_code == 200
