"""Chat through the gateway, the service and the real vLLM: exact answers of the demo model."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from tests.e2e.server import MODEL

if TYPE_CHECKING:
    from tests.e2e.server import Server

HELLO = [{"role": "user", "content": "Hello"}]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def ask(client: openai.OpenAI, question: str = "Hello", **more: Any) -> Any:
    messages = [{"role": "user", "content": question}]
    return client.chat.completions.create(**{"model": MODEL, "messages": messages, **more})


def request(entry: dict[str, Any]) -> dict[str, Any]:
    return {"model": MODEL} | {name: entry[name] for name in entry if name != "expected"}


def said(message: Any) -> dict[str, Any]:
    """Return a message in the shape in which answers.json expects it."""
    if message.tool_calls:
        return {
            "tool_calls": [
                {"name": call.function.name, "arguments": json.loads(call.function.arguments)}
                for call in message.tool_calls
            ]
        }
    return {"content": message.content}


def streamed(client: openai.OpenAI, **body: Any) -> dict[str, Any]:
    """Return what a stream adds up to, in the same shape."""
    content, calls = "", {}
    for chunk in client.chat.completions.create(**body, stream=True):
        for choice in chunk.choices:
            content += choice.delta.content or ""
            for part in choice.delta.tool_calls or []:
                call = calls.setdefault(part.index, {"name": "", "arguments": ""})
                call["name"] += part.function.name or ""
                call["arguments"] += part.function.arguments or ""
    if calls:
        return {
            "tool_calls": [{**c, "arguments": json.loads(c["arguments"])} for c in calls.values()]
        }
    return {"content": content}


def sampled(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one question for each distinct answer, and every seventh besides."""
    first: dict[str, dict[str, Any]] = {}
    for entry in answers:
        if len(json.dumps(entry["messages"])) < 2000:
            first.setdefault(json.dumps(entry["expected"], sort_keys=True), entry)
    return [*first.values(), *answers[::7]]


def test_every_answer_that_the_model_holds_by_heart_comes_out_exactly(
    client: openai.OpenAI, answers: list[dict[str, Any]]
) -> None:
    def wrong(entry: dict[str, Any]) -> tuple[Any, ...]:
        got = said(client.chat.completions.create(**request(entry)).choices[0].message)
        expected = entry["expected"]
        return () if got == expected else (entry["messages"][-1], got, expected)

    with ThreadPoolExecutor(8) as pool:
        assert [one for one in pool.map(wrong, sampled(answers)) if one] == []


@pytest.mark.parametrize("kind", ["words", "tools", "response_format"])
def test_a_stream_adds_up_to_the_whole_answer(
    client: openai.OpenAI, answers: list[dict[str, Any]], kind: str
) -> None:
    fitting = [
        entry
        for entry in answers
        if (kind in entry if kind != "words" else set(entry) == {"messages", "expected"})
    ]
    for entry in fitting[:: max(1, len(fitting) // 8)]:
        assert streamed(client, **request(entry)) == entry["expected"]


def test_a_stream_arrives_in_many_pieces(client: openai.OpenAI) -> None:
    chunks = [c for c in ask(client, stream=True) if c.choices and c.choices[0].delta.content]
    assert len(chunks) > 5


def test_a_stream_ends_with_its_usage_where_it_was_asked_for(client: openai.OpenAI) -> None:
    whole = ask(client).usage
    *_, last = ask(client, stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (
        whole.prompt_tokens,
        whole.completion_tokens,
    )


def test_a_json_schema_binds_the_answer_whatever_was_asked(client: openai.OpenAI) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    answer = json.loads(ask(client, response_format=wanted).choices[0].message.content)
    assert isinstance(answer["name"], str)
    assert isinstance(answer["age"], int)
    assert set(answer) == {"name", "age"}


def test_a_tool_call_carries_an_id_and_ends_the_turn(
    client: openai.OpenAI, answers: list[dict[str, Any]]
) -> None:
    entry = next(e for e in answers if e["expected"].get("tool_calls"))
    choice = client.chat.completions.create(**request(entry)).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls[0].id


@pytest.mark.parametrize("strict", [None, False])
@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "person"}}]
)
def test_a_forced_call_keeps_to_its_tools_schema(
    client: openai.OpenAI, choice: Any, *, strict: bool | None
) -> None:
    function = {"name": "person", "parameters": PERSON, "strict": strict}
    answer = ask(client, tools=[{"type": "function", "function": function}], tool_choice=choice)
    (call,) = answer.choices[0].message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == {"name", "age"}
    assert isinstance(arguments["age"], int)


def test_log_probabilities_come_with_each_token(client: openai.OpenAI) -> None:
    answer = ask(client, logprobs=True, top_logprobs=2)
    tokens = answer.choices[0].logprobs.content
    text = answer.choices[0].message.content
    assert b"".join(bytes(t.bytes) for t in tokens).decode().removesuffix("<|im_end|>") == text
    assert all(t.logprob <= 0 and len(t.top_logprobs) == 2 for t in tokens)


def test_n_gives_that_many_choices(client: openai.OpenAI) -> None:
    answer = ask(client, n=3, temperature=0.7, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_the_same_seed_gives_the_same_words(client: openai.OpenAI) -> None:
    def drawn(seed: int) -> str:
        answer = ask(client, temperature=1.9, seed=seed, max_tokens=40)
        return str(answer.choices[0].message.content)

    assert drawn(7) == drawn(7)
    assert len({drawn(seed) for seed in range(5)}) > 1


def test_a_stop_word_ends_the_answer_before_it(
    client: openai.OpenAI, plain: dict[str, str]
) -> None:
    choice = ask(client, stop=["!"]).choices[0]
    assert choice.message.content == plain["Hello"].partition("!")[0]
    assert choice.finish_reason == "stop"


def test_max_tokens_cuts_the_answer_and_says_so(client: openai.OpenAI) -> None:
    answer = ask(client, max_completion_tokens=2)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 2


def test_responses_answer_the_same_words(client: openai.OpenAI, plain: dict[str, str]) -> None:
    answer = client.responses.create(model=MODEL, input="Hello", temperature=0)
    assert answer.output_text == plain["Hello"]


def test_responses_stream_the_same_words(client: openai.OpenAI, plain: dict[str, str]) -> None:
    events = client.responses.create(model=MODEL, input="Hello", temperature=0, stream=True)
    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(pieces) == plain["Hello"]


def test_completions_go_on_with_a_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="Hello", max_tokens=4, temperature=0)
    parts = client.completions.create(
        model=MODEL, prompt="Hello", max_tokens=4, temperature=0, stream=True
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 4
    assert "".join(part.choices[0].text for part in parts if part.choices) == answer.choices[0].text


def test_the_models_of_every_role_are_listed_and_found(client: openai.OpenAI) -> None:
    listed = {model.id for model in client.models.list()}
    assert {MODEL, "tts-1", "gpt-4o-mini-tts"} <= listed
    assert {client.models.retrieve(name).id for name in listed} == listed


def test_an_unknown_model_is_404_by_openais_name(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, model="gpt-99")
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-99")


def test_an_unknown_field_is_400_and_names_the_nearest(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature") as caught:
        ask(client, extra_body={"temprature": 0.5})
    assert (caught.value.param, caught.value.code) == ("temprature", "unknown_parameter")


def test_a_path_of_vllm_that_is_not_public_is_404(stack: Server) -> None:
    for path in (
        "/invocations",
        "/v1/load_lora_adapter",
        "/pause",
        "/sleep",
        "/reset_prefix_cache",
    ):
        answer = httpx.post(stack.url + path, json={"model": MODEL, "messages": HELLO})
        assert answer.status_code == 404
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_an_answer_names_its_request_and_its_limits(stack: Server) -> None:
    answer = httpx.post(
        f"{stack.url}/v1/chat/completions",
        json={"model": MODEL, "messages": HELLO},
        headers={"x-request-id": "mine-1"},
        timeout=30,
    )
    assert answer.headers["x-request-id"] == "mine-1"
    assert int(answer.headers["openai-processing-ms"]) >= 0
    assert int(answer.headers["x-ratelimit-limit-requests"]) > 0
