"""What one chat request may cost the others, on the real vLLM."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from tests.e2e.server import MODEL

if TYPE_CHECKING:
    from tests.e2e.server import Server

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
HELLO = [{"role": "user", "content": "Hello"}]


def post(stack: Server, path: str, **body: Any) -> httpx.Response:
    asked = {"messages": HELLO} if path == CHAT else {}
    return httpx.post(stack.url + path, json={"model": MODEL, **asked, **body}, timeout=60)


def bound_by(schema: dict[str, Any]) -> dict[str, Any]:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return {"response_format": wanted, "max_tokens": 60}


def expect_refusal(answer: httpx.Response, status: int, param: str | None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    return error


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (CHAT, {"n": 16384, "min_tokens": 1000}, (400, "n", "REQUEST_SEQUENCES")),
        (COMPLETIONS, {"prompt": ["a"] * 1000}, (400, "prompt", "REQUEST_SEQUENCES")),
        (CHAT, {"messages": HELLO * 5000}, (400, "messages", "REQUEST_ITEMS")),
        (RESPONSES, {"input": HELLO * 5000}, (400, "input", "REQUEST_ITEMS")),
        (RESPONSES, {"input": HELLO * 50_000}, (413, None, "context")),
        ("/tokenize", {"prompt": "word " * 1_500_000}, (413, None, "context")),
        (
            CHAT,
            {"structured_outputs": {"choice": [f"c{n}" for n in range(10_000)]}},
            (400, "structured_outputs.choice", "GRAMMAR"),
        ),
        (
            CHAT,
            bound_by({"enum": [f"c{n}" for n in range(10_000)]}),
            (400, "response_format.json_schema.schema", "GRAMMAR"),
        ),
    ],
)
def test_what_would_stop_everybody_else_is_refused_and_the_bound_named(
    stack: Server, path: str, body: dict[str, Any], expected: tuple[int, str | None, str]
) -> None:
    status, param, names = expected
    error = expect_refusal(post(stack, path, **body), status, param)
    assert names in error["message"]


SLOW = ["((a{1,100}){1,100}){1,100}", "(a*)*b"]


@pytest.mark.parametrize("regex", SLOW)
def test_an_expression_that_would_hold_each_token_of_everybody_up_is_refused(
    stack: Server, regex: str
) -> None:
    answer = post(stack, CHAT, structured_outputs={"regex": regex})
    error = expect_refusal(answer, 400, "structured_outputs.regex")
    assert "too long" in error["message"]


def test_malformed_items_are_named_one_by_one(stack: Server) -> None:
    answer = post(stack, RESPONSES, input=HELLO * 500 + [{"role": "user", "content": {}}] * 500)
    expect_refusal(answer, 400, "input[500]")
    answer = post(stack, CHAT, messages=HELLO * 1000 + [{}] * 1000)
    expect_refusal(answer, 400, "messages[1000]")


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        (RESPONSES, {"input": [{"role": "user"}]}, "input[0]", "input[0].content: Field required"),
        (CHAT, {"messages": [*HELLO, 5]}, "messages[1]", "messages[1]: Input should be a valid"),
        (CHAT, {"temperature": "hot"}, "temperature", "temperature: Input should be a valid"),
    ],
)
def test_of_many_faults_the_first_is_told_in_a_line(
    stack: Server, path: str, body: dict[str, Any], param: str, message: str
) -> None:
    error = expect_refusal(post(stack, path, **body), 400, param)
    assert error["message"].startswith(message)
    assert "\n" not in error["message"]


def test_a_custom_tool_bound_by_a_grammar_is_refused_in_words(stack: Server) -> None:
    form = {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}
    tool = {"type": "custom", "name": "apply_patch", "format": form}
    error = expect_refusal(post(stack, RESPONSES, input="Hi", tools=[tool]), 400, "tools[0].format")
    assert "free text" in error["message"]


REGEXES = ["(", "[z-a]", "a**", "\\1", "(?=a)b", "a{5,2}", "\\p{Foo}"]
SCHEMAS: dict[str, dict[str, Any]] = {
    "itself": {"$ref": "#"},
    "itself by a choice": {"anyOf": [{"$ref": "#"}]},
    "nothing there": {"$ref": "#/$defs/nothing"},
    "no type": {"type": "strin"},
    "no regex": {"type": "string", "pattern": "("},
    "an empty enum": {"enum": []},
    "not read": {"type": "array", "uniqueItems": True},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("regex", REGEXES)
def test_an_expression_that_does_not_compile_is_400_and_named(
    stack: Server, regex: str, *, stream: bool
) -> None:
    answer = post(stack, CHAT, structured_outputs={"regex": regex}, stream=stream)
    expect_refusal(answer, 400, "structured_outputs.regex")


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_a_schema_that_does_not_compile_is_400_and_named(
    stack: Server, schema: dict[str, Any]
) -> None:
    answer = post(stack, CHAT, **bound_by(schema))
    expect_refusal(answer, 400, "response_format.json_schema.schema")
    form = {"type": "json_schema", "name": "x", "schema": schema}
    answer = post(stack, RESPONSES, input="Hello", text={"format": form}, stream=True)
    expect_refusal(answer, 400, "text.format.schema")


@pytest.mark.parametrize("grammar", ["root ::= nothing", 'root ::= root "a"', "start: nothing"])
def test_a_grammar_that_nothing_fulfils_is_400_and_named(stack: Server, grammar: str) -> None:
    answer = post(stack, CHAT, structured_outputs={"grammar": grammar})
    expect_refusal(answer, 400, "structured_outputs.grammar")


def test_a_forced_call_whose_schema_does_not_compile_is_400_and_named(stack: Server) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"$ref": "#"}}}
    answer = post(stack, CHAT, tools=[tool], tool_choice="required")
    expect_refusal(answer, 400, "tools[0].function.parameters")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"logit_bias": {"99999": 1}}, "logit_bias"),
        (CHAT, {"logprobs": True, "top_logprobs": 25}, "logprobs"),
        (COMPLETIONS, {"prompt": "Hello", "allowed_token_ids": [99999]}, "allowed_token_ids"),
    ],
)
def test_what_the_engine_refuses_has_its_status_in_a_stream_too(
    stack: Server, path: str, body: dict[str, Any], param: str
) -> None:
    whole, streamed = post(stack, path, **body), post(stack, path, **body, stream=True)
    assert expect_refusal(streamed, 400, param) == expect_refusal(whole, 400, param)


def test_what_counts_repetitions_is_compiled_apart_and_binds(stack: Server) -> None:
    answer = post(stack, CHAT, structured_outputs={"regex": "[a-c]{3,7}x"}, max_tokens=40)
    assert answer.status_code == 200, answer.text
    said = answer.json()["choices"][0]["message"]["content"]
    assert said[-1] == "x"
    assert set(said[:-1]) <= set("abc")
    assert 4 <= len(said) <= 8


def test_json_mode_answers_after_all_of_that(stack: Server) -> None:
    answer = post(stack, CHAT, **bound_by({"enum": ["yes", "no"]}))
    assert json.loads(answer.json()["choices"][0]["message"]["content"]) in {"yes", "no"}


@pytest.mark.parametrize(
    "name", ["n", "stop", "min_tokens", "tools", "response_format", "nonsense"]
)
def test_null_is_not_given(stack: Server, plain: dict[str, str], name: str) -> None:
    answer = post(stack, CHAT, **{name: None})
    assert answer.json()["choices"][0]["message"]["content"] == plain["Hello"]


def test_a_wish_that_would_be_lost_is_400(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="speech") as caught:
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Hello"}],
            modalities=["text", "audio"],
            audio={"voice": "alloy", "format": "wav"},
        )
    assert caught.value.param == "modalities"
    with pytest.raises(openai.BadRequestError, match="whole conversation") as caught:
        client.responses.create(model=MODEL, input="Hello", previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"


def test_codex_is_answered(stack: Server, plain: dict[str, str]) -> None:
    """Its request has the fields and tools that it sends beside OpenAI's documented ones."""
    answer = post(
        stack,
        RESPONSES,
        input=[{"type": "message", "role": "user", "content": [_said("Hello")]}],
        tools=[{"type": "web_search", "external_web_access": False}],
        tool_choice="auto",
        client_metadata={"x-codex-installation-id": "1"},
        include=["reasoning.encrypted_content"],
        prompt_cache_key="1",
        store=False,
        stream_options={"include_obfuscation": False},
        temperature=0,
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["output"][0]["content"][0]["text"] == plain["Hello"]


def _said(text: str) -> dict[str, str]:
    return {"type": "input_text", "text": text}


def test_no_model_tells_where_it_lies(stack: Server) -> None:
    cards = httpx.get(f"{stack.url}/v1/models").json()["data"]
    assert all("/" not in str(card.get("root", "")) for card in cards)


def test_a_stream_is_kept_by_no_proxy(stack: Server) -> None:
    answer = post(stack, CHAT, stream=True)
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
