from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ci.demo_model.conversations import answers_of, held_by_heart
from ci.demo_model.corpus import load

ROOT = Path(__file__).parents[4]
MODEL = ROOT / "services" / "chat" / "demo_model"


def read(name: str) -> Any:
    return json.loads((MODEL / name).read_text(encoding="utf-8"))


def test_the_shipped_answers_agree_with_the_corpus() -> None:
    corpus = load()
    wanted = [json.dumps(entry) for entry in answers_of(list(held_by_heart(corpus)), corpus)]
    shipped = [json.dumps(entry) for entry in read("answers.json")]
    assert shipped
    assert set(shipped) <= set(wanted)


def test_every_answer_of_the_corpus_is_shipped_for_some_question() -> None:
    shipped = {entry["expected"].get("content") for entry in read("answers.json")}
    assert {entry.answer for entry in load().entries} - shipped == set()


@pytest.mark.parametrize(
    "question",
    ["Hello", "What is Bentovox?", "Count from one to ten.", "Tell me a long story."],
)
def test_what_other_tests_ask_is_shipped(question: str) -> None:
    asked = [entry["messages"] for entry in read("answers.json") if "tools" not in entry]
    assert [{"role": "user", "content": question}] in asked


def test_the_shipped_completions_agree_with_the_corpus() -> None:
    shipped = [(entry["prompt"], entry["expected"]) for entry in read("completions.json")]
    assert shipped == list(load().completions)


def test_the_shipped_chat_template_is_the_one_trained_with() -> None:
    shipped = (MODEL / "chat_template.jinja").read_text(encoding="utf-8")
    assert (
        shipped.strip()
        == (ROOT / "ci/demo_model/chat_template.jinja").read_text(encoding="utf-8").strip()
    )


def test_the_model_folder_is_under_ten_megabytes() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 10_000_000


def test_the_model_folder_holds_no_python() -> None:
    assert sorted(path.name for path in MODEL.iterdir()) == [
        "README.md",
        "answers.json",
        "chat_template.jinja",
        "completions.json",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_model_card_says_what_it_is() -> None:
    card = (MODEL / "README.md").read_text(encoding="utf-8")
    corpus = load()
    distinct = {entry.answer for entry in corpus.entries}
    assert f"It memorises {len(distinct)} answers and knows nothing else." in card


def test_generation_is_greedy_and_stops_at_the_end_of_a_turn() -> None:
    tokenizer, generation = read("tokenizer.json"), read("generation_config.json")
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    assert ids["<|im_end|>"] in generation["eos_token_id"]
    assert generation["temperature"] == 0


def test_the_markers_of_tool_calls_are_single_visible_tokens() -> None:
    added = {token["content"]: token for token in read("tokenizer.json")["added_tokens"]}
    assert not added["<tool_call>"]["special"]
    assert not added["</tool_call>"]["special"]
    assert added["<|im_end|>"]["special"]


def test_the_model_is_a_qwen3_that_takes_the_longest_context_in_use() -> None:
    config = read("config.json")
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["max_position_embeddings"] >= 2048
    assert config["dtype"] == "bfloat16"
