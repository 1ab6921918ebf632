"""The check whether greedy decoding gives every answer, and by what margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

# A tokenised conversation and how each token is learnt, see `tokenizer.encode`.
Encoded = tuple[list[int], list[int]]
NOT_LEARNT = -100
_FORBIDDEN = -1e9
ENOUGH_GAP = 0.7  # nats: well above what bfloat16 and batching move


@dataclass(frozen=True)
class Result:
    """How surely the model knows each answer by heart."""

    gaps: tuple[float, ...]
    """For each answer, the smallest lead of a right token over the next, in nats."""

    @property
    def exact(self) -> int:
        """How many answers greedy decoding gives."""
        return sum(gap > 0 for gap in self.gaps)

    @property
    def held(self) -> tuple[int, ...]:
        """Which answers are exact with a margin that survives another order of summation."""
        return tuple(index for index, gap in enumerate(self.gaps) if gap >= ENOUGH_GAP)


def padded(rows: Sequence[Encoded]) -> tuple[Any, Any, Any]:
    """Return token ids, labels and kinds, int64 (rows, longest); unlearnt labels are -100."""
    import torch  # noqa: PLC0415

    longest = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), NOT_LEARNT)
    kinds = torch.zeros(len(rows), longest, dtype=torch.long)
    for row, (tokens, learnt) in enumerate(rows):
        length = len(tokens)
        ids[row, :length] = torch.tensor(tokens)
        kinds[row, :length] = torch.tensor(learnt)
        wanted = [t if kind else NOT_LEARNT for t, kind in zip(tokens, learnt, strict=True)]
        labels[row, :length] = torch.tensor(wanted)
    return ids, labels, kinds


def forbidden_tokens(tokenizer: Any) -> Any:
    """Return what a grammar adds to logits to forbid tokens, float32 of shape (kinds, tokens)."""
    import torch  # noqa: PLC0415

    table = torch.zeros(4, len(tokenizer))
    for token in range(len(tokenizer)):
        text = tokenizer.decode([token])
        for kind, first in ((2, "{"), (3, "[")):
            if not text.startswith(first):
                table[kind, token] = _FORBIDDEN
    return table


def answer_logits(model: Any, batch: tuple[Any, Any, Any], table: Any) -> tuple[Any, Any, Any]:
    """Return logits (n, vocabulary), targets (n,) and rows (n,) of the tokens that are learnt.

    Right padding needs no mask: attention is causal.
    """
    ids, labels, kinds = batch
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    learnt = labels[:, 1:] != NOT_LEARNT
    logits = model.lm_head(hidden[learnt]).float() + table[kinds[:, 1:][learnt]]
    return logits, labels[:, 1:][learnt], learnt.nonzero()[:, 0]


def check(model: Any, rows: Sequence[Encoded], table: Any) -> Result:
    """Compare the model's first choice with every token of every answer.

    If each first choice is right after the right prefix, greedy decoding gives the answer.
    """
    import torch  # noqa: PLC0415

    order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]))
    gaps = [float("inf")] * len(rows)
    with torch.inference_mode():
        for start in range(0, len(order), 32):
            members = order[start : start + 32]
            logits, targets, row = answer_logits(model, padded([rows[i] for i in members]), table)
            right = logits.gather(1, targets[:, None])[:, 0]
            others = logits.scatter(1, targets[:, None], float("-inf")).max(-1).values
            for member, gap in zip(row.tolist(), (right - others).tolist(), strict=True):
                gaps[members[member]] = min(gaps[members[member]], gap)
    return Result(tuple(gaps))
