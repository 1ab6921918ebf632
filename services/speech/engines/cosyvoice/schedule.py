"""Which pieces of sound are made next, and how many streams that leaves without a gap.

Whose listener runs dry first goes first.
"""

from __future__ import annotations

import statistics
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice
from math import inf
from typing import Any, Final, Literal, TypeVar

_LIKE: Final = 0.75
"""A batch is filled up to its largest piece: none is smaller than this part of another."""

PATIENCE_S: Final = 1.5
"""Who has heard nothing yet counts as running dry that long after asking.

Without it, newcomers would make those stutter who have just begun.
"""

IN_TIME: Final = 0.7
"""A part may take that share of the time until its listener runs dry."""

_PROMPT_S: Final = 5.0
_SEGMENT_S: Final = 10.0
_LONGEST_S: Final = 4.0  # of a part
_LENGTHS_S: Final = (10.0, 20.0, 3.0, 30.0)
_APART_S: Final = (0.0, 0.1, 0.3, 1.0)  # how they come, one after the other
_SHARE: Final = 0.75  # of the time that is planned with
_MOST_HELD: Final = 64
_KEPT: Final = 64
_SMOOTHING: Final = 0.2


@dataclass(kw_only=True, eq=False)
class Piece:
    """A piece of sound that could be made now."""

    is_first: bool  # whether its listener has heard nothing yet
    due_s: float  # when that listener runs dry; of a first piece, `PATIENCE_S` after its request
    size: int  # how much the model is given for it
    kind: Any = None  # only pieces of one kind are made together


_Piece = TypeVar("_Piece", bound=Piece)


def together(pieces: Sequence[_Piece], most: int) -> list[_Piece]:
    """Return the most urgent piece and up to `most - 1` to make with it, of like size and kind.

    A first piece is not delayed by making a later one with it.
    """
    chosen: list[_Piece] = []
    for piece in sorted(pieces, key=lambda piece: piece.due_s):
        if chosen and (piece.kind, piece.is_first) != (chosen[0].kind, chosen[0].is_first):
            continue
        sizes = [one.size for one in (*chosen, piece)]
        if min(sizes) >= _LIKE * max(sizes):
            chosen.append(piece)
        if len(chosen) == most:
            break
    return chosen


@dataclass(frozen=True)
class Costs:
    """What a model takes on a machine, in seconds."""

    step_s: float  # for a token of every line
    line_s: float  # for each line in that
    batch_s: float  # to begin a batch of the flow
    token_s: float  # for each token in it, those of prompts and earlier parts included
    sound_s: float  # for a second of sound in the vocoder


class Meter:
    """What the threads of the stages took lately: how much they did, and how long it took."""

    def __init__(self) -> None:
        self._steps: dict[float, float] = {}
        self._spent: dict[str, deque[tuple[float, float]]] = {
            name: deque(maxlen=_KEPT) for name in ("flow", "sound")
        }

    @contextmanager
    def timed(self, what: Literal["step", "flow", "sound"], many: float) -> Iterator[None]:
        """Time a step of decoding `many` lines, a batch of the flow or the vocoder.

        Of the flow `many` are the tokens, with what they were filled up with; of the vocoder the
        seconds of sound.
        """
        began = time.monotonic()
        yield
        spent_s = time.monotonic() - began
        if what == "step":
            before_s = self._steps.get(many, spent_s)
            self._steps[many] = before_s + _SMOOTHING * (spent_s - before_s)
        elif many:  # the last part of a segment may have no sound of its own
            self._spent[what].append((many, spent_s))

    def token_s(self, tokens_a_second: int) -> float:
        """Return what a token takes flow and vocoder, at the worst of late; 0: nothing is known."""
        flow_s, sound_s = (
            max((spent_s / many for many, spent_s in list(spent)[-4:]), default=0.0)
            for spent in self._spent.values()
        )
        return flow_s and flow_s + sound_s / tokens_a_second

    def costs(self) -> Costs:
        """Return what everything takes."""
        steps, flow, sound = list(self._steps.items()), *map(list, self._spent.values())
        # A GPU decodes many lines in the time of one, and no flow is free.
        decoding = _fitted(steps) or (max(self._steps.values(), default=0.0), 0.0)
        return Costs(*decoding, *(_fitted(flow) or (0.0, _each(flow))), _each(sound))


def _fitted(spent: Collection[tuple[float, float]]) -> tuple[float, float] | None:
    """Return what it takes at all, and for each, of pairs of how many and how long, if it tells."""
    if len({many for many, _ in spent}) > 1:
        each_s, at_all_s = statistics.linear_regression(*zip(*spent, strict=True))
        if each_s > 0 and at_all_s >= 0:
            return at_all_s, each_s
    return None


def _each(spent: Collection[tuple[float, float]]) -> float:
    return sum(spent_s for _, spent_s in spent) / max(1e-9, sum(many for many, _ in spent))


def streams_held(costs: Costs, tokens_a_second: int, rows: int) -> int:
    """Return how many streams at once would all be heard without a gap, at most 64.

    So many that it is so while more wait than are at work, with time to spare.
    """
    planned = replace(
        costs,
        batch_s=costs.batch_s / _SHARE,
        token_s=costs.token_s / _SHARE,
        sound_s=costs.sound_s / _SHARE,
    )

    def has_gap(slots: int) -> bool:
        lengths_s = list(islice(cycle(_LENGTHS_S), 3 * slots))
        crowds = ([(apart_s * at, one) for at, one in enumerate(lengths_s)] for apart_s in _APART_S)
        return any(
            longest_gap_s(planned, tokens_a_second, rows, slots, crowd) > 0 for crowd in crowds
        )

    return bisect_left(range(1, _MOST_HELD + 1), True, key=has_gap)  # noqa: FBT003


@dataclass(kw_only=True, eq=False)
class _Stream(Piece):
    """A simulated stream, as its next part; its segments have ten seconds, and parts that grow."""

    seconds: float
    said_s: float = 0.0
    part_s: float = 1.0
    next_s: float = 0.0

    def plan(self, now_s: float, second_s: float, tokens_a_second: int) -> None:
        """Choose how long the next part is; a second of tokens takes the flow `second_s`."""
        before_s = self.said_s % _SEGMENT_S
        left_s = min(self.seconds - self.said_s, _SEGMENT_S - before_s)
        in_time_s = IN_TIME * (self.due_s - now_s) / second_s - _PROMPT_S - before_s
        self.next_s = min(left_s, self.part_s if self.is_first else max(self.part_s, in_time_s))
        self.size = round((_PROMPT_S + before_s + self.next_s) * tokens_a_second)

    def hear(self, at_s: float) -> float:
        """Take the part, made at that time; return how long nothing was heard before it."""
        gap_s = 0.0 if self.is_first else max(0.0, at_s - self.due_s)
        self.due_s = (at_s if self.is_first else max(at_s, self.due_s)) + self.next_s
        self.is_first = False
        self.said_s += self.next_s
        self.part_s = min(_LONGEST_S, 2 * self.part_s) if self.said_s % _SEGMENT_S else 1.0
        return gap_s


def longest_gap_s(
    costs: Costs, tokens_a_second: int, rows: int, slots: int, asked: Sequence[tuple[float, float]]
) -> float:
    """Play streams on a simulated clock, `slots` at a time; return the longest gap that is heard.

    `asked` has when each is asked for, and how long it is, both in seconds.
    """
    waiting, playing = deque(sorted(asked)), list[_Stream]()
    gap_s = now_s = 0.0
    while waiting or playing:
        if not playing:
            now_s = max(now_s, waiting[0][0])
        while waiting and waiting[0][0] <= now_s and len(playing) < slots:
            due_s, seconds = now_s + PATIENCE_S, waiting.popleft()[1]
            playing.append(_Stream(is_first=True, due_s=due_s, size=0, seconds=seconds))
        free = 1 - (costs.step_s + len(playing) * costs.line_s) * tokens_a_second
        if free <= 0:  # decoding alone takes longer than speaking
            return inf
        second_s = costs.token_s * tokens_a_second + costs.batch_s / _SEGMENT_S + costs.sound_s
        for stream in playing:
            stream.plan(now_s, second_s * len(playing) / free, tokens_a_second)
        batch = together(playing, rows)
        tokens = len(batch) * max(stream.size for stream in batch)
        spent_s = costs.batch_s + costs.token_s * tokens
        spent_s += costs.sound_s * sum(stream.next_s for stream in batch)
        now_s += spent_s / free
        gap_s = max(gap_s, *(stream.hear(now_s) for stream in batch))
        playing = [stream for stream in playing if stream.said_s < stream.seconds]
    return gap_s
