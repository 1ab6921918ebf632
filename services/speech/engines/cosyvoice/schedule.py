"""Which pieces of sound are made next, and how many streams that leaves without a gap.

First pieces go first, then whose listener runs dry first.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_LIKE: Final = 0.75
"""A batch is filled up to its largest piece: none is smaller than this part of another."""

_PROMPT_S: Final = 5
_PARTS: Final = ((1, 0), (2, 1), (4, 3), (3, 7))
"""The parts of a segment of ten seconds, and what comes before each, in seconds."""
_HEARD_S: Final = 0.1  # a shorter gap is not
_MOST_HELD: Final = 64


@dataclass(frozen=True)
class Piece:
    """A piece of sound that could be made now.

    Attributes:
        owner: whose it is.
        is_first: whether its listener has heard nothing yet.
        due_s: when that listener runs dry; for a first piece, when it was asked for.
        size: how much the model is given for it.
        kind: only pieces of one kind are made together.
    """

    owner: Any
    is_first: bool
    due_s: float
    size: int
    kind: Any = None

    @property
    def order(self) -> tuple[bool, float]:
        """Return what pieces are sorted by, the most urgent first."""
        return not self.is_first, self.due_s


def together(pieces: Sequence[Piece], most: int) -> list[Piece]:
    """Return the most urgent piece and up to `most - 1` to make with it, of like size and kind.

    A first piece is not delayed by making a later one with it.
    """
    chosen: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: piece.order):
        if chosen and (piece.kind, piece.is_first) != (chosen[0].kind, chosen[0].is_first):
            continue
        sizes = [one.size for one in (*chosen, piece)]
        if min(sizes) >= _LIKE * max(sizes):
            chosen.append(piece)
    return chosen[:most]


@dataclass(frozen=True)
class Costs:
    """What a model takes on a machine, in seconds.

    Attributes:
        step_s: for a token of every line.
        batch_s: to begin a batch of the flow.
        token_s: for each token in it, those of prompts and earlier parts included.
        sound_s: for a second of sound in the vocoder.
    """

    step_s: float
    batch_s: float
    token_s: float
    sound_s: float


def streams_held(costs: Costs, tokens_a_second: int, rows: int) -> int:
    """Return how many streams that begin at once would all be heard without a gap, at most 64."""

    def has_gap(streams: int) -> bool:
        return not _is_continuous(streams, costs, tokens_a_second, rows)

    return bisect_left(range(1, _MOST_HELD + 1), True, key=has_gap)  # noqa: FBT003


def _is_continuous(streams: int, costs: Costs, tokens_a_second: int, rows: int) -> bool:
    """Play two segments of ten seconds, whose voice is known from five, on a simulated clock."""
    free = 1 - costs.step_s * tokens_a_second  # the part of the time that decoding leaves
    clock_s = costs.step_s * tokens_a_second
    parts = 2 * _PARTS
    at, dry_s = [0] * streams, [0.0] * streams
    while free > 0 and min(at) < len(parts):
        pieces = [
            Piece(
                one, at[one] == 0, dry_s[one], (_PROMPT_S + sum(parts[at[one]])) * tokens_a_second
            )
            for one in range(streams)
            if at[one] < len(parts)
        ]
        batch = together(pieces, rows)
        sound_s = sum(parts[at[piece.owner]][0] for piece in batch)
        tokens = len(batch) * max(piece.size for piece in batch)
        spent_s = costs.batch_s + costs.token_s * tokens + costs.sound_s * sound_s
        clock_s += spent_s / free
        for piece in batch:
            if not piece.is_first and clock_s > dry_s[piece.owner] + _HEARD_S:
                return False
            dry_s[piece.owner] = max(clock_s, dry_s[piece.owner]) + parts[at[piece.owner]][0]
            at[piece.owner] += 1
    return free > 0
