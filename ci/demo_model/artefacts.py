"""What is shipped: the weights, the answers for the tests, and the model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.demo_model.check import ENOUGH_GAP
from ci.demo_model.train import ROUNDS, SEED, THREADS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.demo_model.check import Result
    from ci.demo_model.conversations import Conversation
    from ci.demo_model.corpus import Corpus

CARD = Path(__file__).with_name("model_card.md")


def write_model(model: Any, tokenizer: Any, out: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors (bfloat16).

    The generation defaults are greedy: a client that sends no temperature gets the exact answer.
    """
    model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # safetensors makes it private
    ids = tokenizer.convert_tokens_to_ids
    generation = {
        "eos_token_id": [ids(tokenizer.eos_token), ids(tokenizer.pad_token)],
        "pad_token_id": ids(tokenizer.pad_token),
        "do_sample": False,
        "temperature": 0.0,
    }
    _write_json(out / "generation_config.json", generation)
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("backend", None)
    # Named so that transformers 4 and 5 both load it.
    _write_json(path, config | {"tokenizer_class": "PreTrainedTokenizerFast"})


def answers_of(held: Sequence[Conversation], corpus: Corpus) -> list[dict[str, Any]]:
    """Return what tests compare with: OpenAI's requests, each with the exact message expected.

    `expected` is `{"content": text}` or `{"tool_calls": [{"name", "arguments"}]}`.
    """
    schemas = {t.answer: (t.name, t.schema) for t in corpus.topics}
    entries = []
    for conversation in held:
        *given, last = conversation.messages
        entry: dict[str, Any] = {"messages": [_on_the_wire(message) for message in given]}
        if conversation.tools:
            entry["tools"] = conversation.tools
        name, schema = schemas.get(last["content"], ("", None))
        if schema:
            json_schema = {"name": name, "schema": schema, "strict": True}
            entry["response_format"] = {"type": "json_schema", "json_schema": json_schema}
        if "tool_calls" in last:
            calls = [call["function"] for call in last["tool_calls"]]
            entry["expected"] = {"tool_calls": calls}
        else:
            entry["expected"] = {"content": last["content"]}
        entries.append(entry)
    return entries


def _on_the_wire(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message as OpenAI's clients send it: arguments as text, calls with an id."""
    if message["role"] == "tool":
        return message | {"tool_call_id": "call_0"}
    if "tool_calls" not in message:
        return message
    function = message["tool_calls"][0]["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    call = {"id": "call_0", "type": "function", "function": function | {"arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def write_answers(held: Sequence[Conversation], corpus: Corpus, out: Path) -> None:
    """Write answers.json (chat) and completions.json (plain prompts)."""
    lines = [json.dumps(entry, ensure_ascii=False) for entry in answers_of(held, corpus)]
    text = "[\n" + ",\n".join(lines) + "\n]\n"
    (out / "answers.json").write_text(text, encoding="utf-8")
    completions = [{"prompt": prompt, "expected": text} for prompt, text in corpus.completions]
    _write_json(out / "completions.json", completions)


def write_card(result: Result, corpus: Corpus, out: Path) -> None:
    """Write README.md: the model card, with the numbers of this training."""
    distinct = {entry.answer for entry in corpus.entries}
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    card = CARD.read_text(encoding="utf-8").format(
        answers=len(distinct),
        held=len(result.held),
        total=len(result.gaps),
        gap=ENOUGH_GAP,
        steps=" and ".join(str(one.steps) for one in ROUNDS),
        seed=SEED,
        threads=THREADS,
        vocabulary=config["vocab_size"],
        context=config["max_position_embeddings"],
        megabytes=f"{(out / 'model.safetensors').stat().st_size / 1e6:.1f}",
    )
    (out / "README.md").write_text(card, encoding="utf-8")


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
