"""Checks on a chat request's body, without vLLM."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from services.chat.bounds import Bounds
from services.chat.intake import FOREIGN, Intake
from services.chat.trial import Trial
from services.errors import InvalidRequestError, TooLargeError, UnsupportedMediaError
from services.openai import reading
from services.settings.sections import ChatSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


class Message(BaseModel):
    role: str = ""
    content: str | list[dict[str, Any]] = ""


class ChatBody(BaseModel):
    model: str
    messages: list[Message]
    temperature: float | None = None
    n: Any = None
    tools: Any = None
    tool_choice: Any = None


class Said(BaseModel):
    content: str


class Called(BaseModel):
    id: str


class ResponsesBody(BaseModel):
    model: str
    input: str | list[Said | Called] | None = None
    tools: Any = None
    tool_choice: Any = None
    previous_response_id: str | None = None


class TextBody(BaseModel):
    prompt: str


class TextsBody(BaseModel):
    prompt: list[str]


MODELS = {
    CHAT: (ChatBody,),
    RESPONSES: (ResponsesBody,),
    "/tokenize": (TextBody, TextsBody),
}
JSON = [(b"host", b"x"), (b"content-type", b"application/json")]
BOUNDS = Bounds(
    ChatSettings(
        request_sequences=8, request_batch=16, request_items=200, grammar_kib=2, grammar_items=50
    ),
    text_bytes=4000,
    body_bytes=20_000,
)
TOOL = {"name": "f", "parameters": {"type": "object"}}


def read(
    *pieces: bytes,
    path: str = CHAT,
    headers: list[tuple[bytes, bytes]] | None = None,
    weighed: list[int] | None = None,
) -> bytes:
    """Return what vLLM would be given."""

    async def taken() -> bytes:
        messages = [
            {"type": "http.request", "body": piece, "more_body": number < len(pieces) - 1}
            for number, piece in enumerate(pieces)
        ]

        async def receive() -> Any:
            if messages:
                return messages.pop(0)
            return await asyncio.Event().wait()

        async def weigh(cost: int) -> None:
            (weighed if weighed is not None else []).append(cost)

        scope = {
            "path": path,
            "headers": JSON if headers is None else headers,
            "bentovox.weigh": weigh,
        }
        intake = Intake(MODELS, BOUNDS, Trial(str, str, limit_s=1, wait_s=1, waiting=1))
        return bytes((await (await intake.take(scope, receive))())["body"])

    return asyncio.run(taken())


def post(body: dict[str, Any], path: str = CHAT) -> dict[str, Any]:
    """Return the body that vLLM would be given."""
    given: dict[str, Any] = json.loads(read(json.dumps(body).encode(), path=path))
    return given


def test_a_body_of_known_fields_passes_unchanged() -> None:
    body = b' {"model": "m",\n "temperature": 1e0, "messages": []} '
    assert read(body) == body
    assert read(body[:7], b"", body[7:]) == body


@given(st.lists(st.integers(0, 60), max_size=6))
def test_how_the_body_came_in_pieces_does_not_matter(cuts: list[int]) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "é"}]}).encode()
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = [body[a:b] for a, b in itertools.pairwise(edges)]
    assert read(*pieces) == body


@pytest.mark.parametrize("field", ["user", "store", "metadata", "reasoning_effort"])
def test_openais_own_fields_pass_though_the_engine_lacks_them(field: str) -> None:
    assert field in post({field: "x"})


def test_what_codex_sends_beside_passes() -> None:
    ignored = reading.watch(strict=True)
    body = {
        "input": "Hello",
        "client_metadata": {"installation": "1"},
        "include": ["reasoning.encrypted_content"],
        "stream_options": {"include_obfuscation": False},
    }
    assert post(body, RESPONSES) == body
    assert ignored.names == []


def test_a_near_miss_is_refused_with_the_name_that_was_meant() -> None:
    with pytest.raises(InvalidRequestError, match="temperature") as refused:
        read(b'{"model": "m", "temprature": 1}')
    assert (refused.value.param, refused.value.code) == ("temprature", "unknown_parameter")


def test_a_field_that_nobody_knows_is_left_out_and_named() -> None:
    ignored = reading.watch(strict=False)
    assert post({"model": "m", "zzzz": 1}) == {"model": "m"}
    assert ignored.names == ["zzzz"]


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_another_servers_field_is_left_out_and_named_however_near(name: str) -> None:
    ignored = reading.watch(strict=False)
    assert post({"model": "m", name: 1}) == {"model": "m"}
    assert ignored.names == [name]


def test_null_is_not_given() -> None:
    assert post({"model": "m", "temperature": None, "zzzz": None}) == {"model": "m"}


def test_a_path_that_is_not_declared_is_not_checked() -> None:
    assert read(b'{"anything": 1}', path="/v1/score") == b'{"anything": 1}'


@pytest.mark.parametrize(
    "body", [b"", b"{", b"nul", b'{"a": 1,}', b"\xff", b'{"a": 1} x', b"[" * 4000]
)
def test_malformed_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="not valid JSON") as refused:
        read(body)
    assert refused.value.code == "invalid_json"


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"model"'])
def test_json_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="is not a JSON object"):
        read(body)


@pytest.mark.parametrize("kind", [b"application/json; charset=utf-8", b"Application/JSON"])
def test_the_content_type_may_say_its_charset(kind: bytes) -> None:
    assert read(b"{}", headers=[(b"content-type", kind)]) == b"{}"


@pytest.mark.parametrize("headers", [[], [(b"content-type", b"text/plain")]])
def test_another_content_type_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(UnsupportedMediaError, match="application/json"):
        read(b"{}", headers=headers)


def test_a_body_that_is_more_than_the_model_can_use_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(TooLargeError, match=r"20000 bytes.*context"):
        read(b"[" * 15_000, b"[" * 15_000)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 9}, "n"),
        ({"n": "9"}, "n"),
        ({"n": 9.0}, "n"),
        ({"n": 3, "prompt": ["a", "b", "c"]}, "n"),
        ({"n": 2, "use_beam_search": True}, "n"),
        ({"prompt": ["a"] * 9}, "prompt"),
        ({"prompt": [[1, 2]] * 9}, "prompt"),
        ({"stop": ["a"] * 65}, "stop"),
        ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias"),
        ({"messages": [{}] * 201}, "messages"),
        ({"messages": [{"content": [{}] * 200}]}, "messages"),
        ({"tools": [{"function": {"parameters": {"a": [{}] * 200}}}]}, "tools"),
        ({"metadata": json.loads("[" * 70 + "]" * 70)}, "metadata"),
    ],
)
def test_what_one_request_costs_is_bounded_and_the_field_is_named(
    body: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{param}: ") as refused:
        post(body, "/v1/completions")
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("path", "field"),
    [("/v1/embeddings", "input"), ("/v1/rerank", "documents"), ("/v1/score", "text_2")],
)
def test_what_is_embedded_or_scored_at_once_is_bounded(path: str, field: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"at most 16 .*REQUEST_BATCH"):
        post({field: ["a"] * 17}, path)


def test_the_first_malformed_item_of_a_large_request_is_named() -> None:
    said = {"role": "user", "content": "a" * 90}
    with pytest.raises(InvalidRequestError) as refused:
        post({"messages": [said] * 38 + [{"role": 5}] * 100})
    assert refused.value.param == "messages[38]"
    post({"messages": [said] * 39})


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        (CHAT, {"messages": [{"role": 5}]}, "messages[0]", "messages[0].role: "),
        (CHAT, {"messages": [{"role": "a"}, 5]}, "messages[1]", "messages[1]: "),
        (CHAT, {"messages": 5}, "messages", "messages: "),
        (CHAT, {"temperature": "hot"}, "temperature", "temperature: "),
        (RESPONSES, {"input": [{"role": "user"}]}, "input[0]", "input[0].content: "),
        ("/tokenize", {"prompt": [{}]}, "prompt[0]", "prompt[0]: "),
    ],
)
def test_the_first_fault_of_a_small_request_is_told_alone(
    path: str, body: dict[str, Any], param: str, message: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        post(body, path)
    assert refused.value.param == param
    assert refused.value.message.startswith(message)
    assert "\n" not in refused.value.message


def test_what_one_of_a_paths_models_takes_passes() -> None:
    assert post({"prompt": "a"}, "/tokenize") == {"prompt": "a"}
    assert post({"prompt": ["a"]}, "/tokenize") == {"prompt": ["a"]}


def test_what_begins_like_tokens_has_to_be_tokens() -> None:
    for wrong in ([1.5] * 100, [1, -1], [1, "a"], [[1], [2, 2.5]]):
        with pytest.raises(InvalidRequestError, match="whole numbers from 0"):
            post({"prompt": wrong}, "/v1/completions")
    post({"prompt": [[1, 2], [3]]}, "/v1/completions")


def test_texts_longer_than_the_context_are_refused_and_images_are_no_text() -> None:
    with pytest.raises(TooLargeError, match="context"):
        post({"messages": [{"content": "a" * 4001}]})
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "a" * 4001}}
    post({"messages": [{"content": [image]}]})


@pytest.mark.parametrize(
    ("path", "body", "cost"),
    [
        (CHAT, {"n": 8}, [8]),
        (CHAT, {"n": 1}, []),
        ("/v1/completions", {"prompt": ["a", "b"], "n": 3}, [6]),
        ("/v1/completions", {"prompt": [1, 2, 3, 4]}, []),
        ("/v1/embeddings", {"input": "a"}, []),
    ],
)
def test_a_request_takes_as_many_slots_as_it_has_answers(
    path: str, body: dict[str, Any], cost: Sequence[int]
) -> None:
    weighed: list[int] = []
    read(json.dumps(body).encode(), path=path, weighed=weighed)
    assert weighed == cost


def test_a_call_that_is_forced_keeps_to_its_schema() -> None:
    body = {"tools": [{"type": "function", "function": TOOL}]}
    assert post({**body, "tool_choice": "auto"})["tools"] == body["tools"]
    strict = [{"type": "function", "function": {**TOOL, "strict": True}}]
    assert post({**body, "tool_choice": "required"})["tools"] == strict
    named = {"type": "function", "function": {"name": "f"}}
    assert post({**body, "tool_choice": named})["tools"] == strict
    flat = {"type": "function", **TOOL}
    answered = post({"tools": [flat], "tool_choice": "required"}, RESPONSES)
    assert answered["tools"] == [{**flat, "strict": True}]
