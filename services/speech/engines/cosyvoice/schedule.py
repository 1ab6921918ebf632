"""Which pieces of sound are made next: first pieces first, then whose listener runs dry first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_LIKE: Final = 0.75
"""A batch is filled up to its largest piece: none is smaller than this part of another."""


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
