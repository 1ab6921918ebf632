"""The training of a tiny Qwen3 from random weights until it knows the corpus by heart.

Whether it does is checked with greedy decoding: it must give every answer, and by what margin.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen3Config, Qwen3ForCausalLM

from ci.terminal import say

# A tokenised conversation and how each token is learnt, see `tokenizer.encode`.
Encoded = tuple[list[int], list[int]]
_FORBIDDEN = -1e9
ENOUGH_GAP = 0.7  # nats: well above what bfloat16 and batching move


@dataclass(frozen=True)
class Round:
    """One descent of the learning rate; the second drills what the first left unsure."""

    steps: int
    learning_rate: float
    draws: int
    drill: bool = False
    """Also learn the very conversations to know, and weigh each token by how unsure it is."""
    batches_a_step: int = 1
    tokens_a_batch: int = 4096


# These and torch's threads decide the weights: on one machine they come out the same each time.
ROUNDS = (
    Round(steps=700, learning_rate=3e-3, draws=16000),
    Round(
        steps=800,
        learning_rate=2e-3,
        draws=5000,
        drill=True,
        batches_a_step=2,
        tokens_a_batch=1900,
    ),
)
SEED, THREADS = 7, 2
VOCABULARY, CONTEXT = 1536, 4096


def new_model(tokenizer: Any) -> Any:
    """Return a Qwen3 of about one million parameters with random weights, float32.

    Torch is made deterministic; the number of threads decides the order of its sums.
    """
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(mode=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.manual_seed(SEED)
    ids = tokenizer.convert_tokens_to_ids
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=CONTEXT,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=ids(tokenizer.eos_token),
            pad_token_id=ids(tokenizer.pad_token),
            use_cache=True,
        )
    )


def fit(
    model: Any,
    examples: Sequence[Encoded],
    held: Sequence[Encoded],
    *,
    table: Any,
    now: Round,
    steps: int,
) -> list[float]:
    """Train `model` in place for one round, round it to bfloat16, and check what it knows then."""
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=now.learning_rate, betas=(0.9, 0.98), weight_decay=0.05
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: _rate(s, steps))
    started = time.monotonic()
    batches = _batches(examples, now.tokens_a_batch)
    for step in range(1, steps + 1):
        optimizer.zero_grad(set_to_none=True)
        loss = sum(_learn(model, next(batches), table, now) for _ in range(now.batches_a_step))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == steps:
            say(f"step {step:4d}  loss {loss:.4f}  {time.monotonic() - started:4.0f} s")
    model.to(torch.bfloat16).eval()
    return check(model, held, table)


def _learn(model: Any, rows: Sequence[Encoded], table: Any, now: Round) -> float:
    """Add the gradient of one batch; return its loss in nats a token."""
    logits, targets, _ = answer_logits(model, rows, table)
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    if now.drill:
        unsure = 1.05 - torch.exp(-losses.detach())
        loss = (losses * unsure).sum() / unsure.sum()
    else:
        loss = losses.mean()
    loss.backward()
    return float(losses.detach().mean()) / now.batches_a_step


def _rate(step: int, steps: int) -> float:
    warm = 40
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _batches(examples: Sequence[Encoded], tokens_a_batch: int) -> Any:
    """Yield batches of about `tokens_a_batch` tokens of like length, in random order, for ever."""
    rng = random.Random(SEED)  # noqa: S311 - reproducible, not secret
    while True:
        order = sorted(examples, key=lambda row: len(row[0]) + rng.random() * 16)
        batches: list[list[Encoded]] = [[]]
        for row in order:
            if (len(batches[-1]) + 1) * len(row[0]) > tokens_a_batch and batches[-1]:
                batches.append([])
            batches[-1].append(row)
        rng.shuffle(batches)
        yield from batches


def forbidden_tokens(tokenizer: Any) -> Any:
    """Return what a grammar adds to logits to forbid tokens, float32 of shape (kinds, tokens)."""
    table = torch.zeros(4, len(tokenizer))
    texts = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    for kind, first in ((2, "{"), (3, "[")):
        table[kind, [not text.startswith(first) for text in texts]] = _FORBIDDEN
    return table


def answer_logits(model: Any, rows: Sequence[Encoded], table: Any) -> tuple[Any, Any, Any]:
    """Return logits (n, vocabulary), targets (n,) and rows (n,) of the tokens that are learnt.

    Right padding needs no mask: attention is causal.
    """
    ids, kinds = (
        pad_sequence([torch.tensor(part) for part in parts], batch_first=True)
        for parts in zip(*rows, strict=True)
    )
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    learnt = kinds[:, 1:] > 0
    logits = model.lm_head(hidden[learnt]).float() + table[kinds[:, 1:][learnt]]
    return logits, ids[:, 1:][learnt], learnt.nonzero()[:, 0]


def check(model: Any, rows: Sequence[Encoded], table: Any) -> list[float]:
    """Return, for each answer, the smallest lead of a right token over the next, in nats.

    If each first choice is right after the right prefix, greedy decoding gives the answer.
    """
    order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]))
    gaps = [float("inf")] * len(rows)
    with torch.inference_mode():
        for start in range(0, len(order), 32):
            members = order[start : start + 32]
            logits, targets, row = answer_logits(model, [rows[i] for i in members], table)
            right = logits.gather(1, targets[:, None])[:, 0]
            others = logits.scatter(1, targets[:, None], float("-inf")).max(-1).values
            for member, gap in zip(row.tolist(), (right - others).tolist(), strict=True):
                gaps[members[member]] = min(gaps[members[member]], gap)
    return gaps
