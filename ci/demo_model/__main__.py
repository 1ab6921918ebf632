"""`python -m ci.demo_model`: train the demo chat model and write it to a folder.

Beside the weights that is what tests compare with, and the model card.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ci.demo_model.conversations import Conversation, Sampler, answers_of, held_by_heart
from ci.demo_model.corpus import Corpus, load
from ci.demo_model.tokenizer import encode, train_tokenizer
from ci.demo_model.train import (
    CONTEXT,
    ENOUGH_GAP,
    ROUNDS,
    SEED,
    THREADS,
    VOCABULARY,
    fit,
    forbidden_tokens,
    new_model,
)
from ci.terminal import say

CARD = Path(__file__).with_name("model_card.md")
_OUT = Path("services/chat/demo_model")
_DRILLS = 3  # copies of every conversation to know, among the draws of a drill

# A few phrasings of hundreds may fail; `answers.json` lists only what the model knows.
_ENOUGH_SHARE = 0.98


def main() -> int:
    """Train, check and write; 0 only if nearly every answer is known by heart with a margin."""
    parser = argparse.ArgumentParser(prog="python -m ci.demo_model", description=__doc__)
    parser.add_argument("--out", type=Path, default=_OUT, help="folder to write")
    parser.add_argument("--steps", type=int, help="steps of each round, for a trial")
    options = parser.parse_args()
    started = time.monotonic()
    corpus = load()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(corpus, out, VOCABULARY, CONTEXT)
    held = list(held_by_heart(corpus))
    encoded = [encode(tokenizer, conversation) for conversation in held]
    model = new_model(tokenizer)
    parameters = sum(p.numel() for p in model.parameters())
    say(f"{parameters:,} parameters, {len(tokenizer)} tokens, {len(held)} answers to learn")
    table = forbidden_tokens(tokenizer)
    for now in ROUNDS:
        steps = options.steps or now.steps
        sampler = Sampler(corpus, random.Random(SEED), drill=now.drill)  # noqa: S311 - reproducible
        examples = [encode(tokenizer, sampler.draw()) for _ in range(now.draws)]
        examples += encoded * _DRILLS if now.drill else []
        say(f"a round of {steps} steps over {len(examples)} conversations")
        gaps = fit(model.float(), examples, encoded, table=table, now=now, steps=steps)
        say(f"exact: {sum(gap > 0 for gap in gaps)} of {len(held)}")
    sure = []
    for conversation, gap in zip(held, gaps, strict=True):
        if gap >= ENOUGH_GAP:
            sure.append(conversation)
        else:
            say(f"not known ({gap:.2f} nats): {conversation.messages[-2:]}")
    write_model(model, tokenizer, out)
    write_answers(sure, corpus, out)
    write_card(len(sure), len(held), corpus, out)
    say(f"{len(sure)} of {len(held)} answers known, {time.monotonic() - started:.0f} s in all")
    if len(sure) < _ENOUGH_SHARE * len(held):
        say(f"error: fewer than {_ENOUGH_SHARE:.0%} are known with a gap of {ENOUGH_GAP} nats")
        return 1
    return 0


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


def write_answers(held: Sequence[Conversation], corpus: Corpus, out: Path) -> None:
    """Write answers.json (chat) and completions.json (plain prompts)."""
    lines = [json.dumps(entry, ensure_ascii=False) for entry in answers_of(held, corpus)]
    text = "[\n" + ",\n".join(lines) + "\n]\n"
    (out / "answers.json").write_text(text, encoding="utf-8")
    completions = [{"prompt": prompt, "expected": text} for prompt, text in corpus.completions]
    _write_json(out / "completions.json", completions)


def write_card(held: int, total: int, corpus: Corpus, out: Path) -> None:
    """Write README.md: the model card, with the numbers of this training."""
    distinct = {entry.answer for entry in corpus.entries}
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    card = CARD.read_text(encoding="utf-8").format(
        answers=len(distinct),
        held=held,
        total=total,
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


if __name__ == "__main__":
    sys.exit(main())
