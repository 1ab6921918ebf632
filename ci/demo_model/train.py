"""The training: a tiny Qwen3 from random weights until it knows the corpus by heart."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ci.demo_model.check import Encoded, Result, answer_logits, check, padded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


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


def prepare() -> None:
    """Make torch deterministic; the number of threads decides the order of its sums."""
    import torch  # noqa: PLC0415

    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(mode=True)
    torch.utils.deterministic.fill_uninitialized_memory = False


def new_model(tokenizer: Any) -> Any:
    """Return a Qwen3 of about one million parameters with random weights, float32."""
    import torch  # noqa: PLC0415
    from transformers import Qwen3Config, Qwen3ForCausalLM  # noqa: PLC0415

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
    say: Callable[[str], None],
) -> Result:
    """Train `model` in place for one round, round it to bfloat16, and check what it knows then."""
    import torch  # noqa: PLC0415

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
    import torch  # noqa: PLC0415

    logits, targets, _ = answer_logits(model, padded(rows), table)
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
