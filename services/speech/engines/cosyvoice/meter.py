"""What the stages of a model took lately."""

from __future__ import annotations

import statistics
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from services.speech.engines.cosyvoice.schedule import Costs

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEPT = 64


class Meter:
    """Times what the threads of the stages do: how much, and how long it took."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self._flow: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self._sound: deque[tuple[float, float]] = deque(maxlen=_KEPT)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time a step of decoding."""
        with _timed(self._steps, 1):
            yield

    @contextmanager
    def flow(self, tokens: float) -> Iterator[None]:
        """Time a batch of the flow; `tokens` counts what it was filled up with, too."""
        with _timed(self._flow, tokens):
            yield

    @contextmanager
    def sound(self, seconds: float) -> Iterator[None]:
        """Time the vocoder on so much sound."""
        with _timed(self._sound, seconds):
            yield

    @property
    def token_s(self) -> float:
        """Return what the flow took for a token, at the worst of late; 0 when nothing is known."""
        return max((spent_s / tokens for tokens, spent_s in list(self._flow)[-4:]), default=0.0)

    def costs(self) -> Costs:
        """Return what everything takes."""
        flow = list(self._flow)
        token_s = batch_s = 0.0
        if len({tokens for tokens, _ in flow}) > 1:
            token_s, batch_s = statistics.linear_regression(*zip(*flow, strict=True))
        if not (token_s > 0 and batch_s >= 0):
            token_s, batch_s = _each(flow), 0.0
        return Costs(_each(list(self._steps)), batch_s, token_s, _each(list(self._sound)))


def _each(spent: list[tuple[float, float]]) -> float:
    return sum(spent_s for _, spent_s in spent) / max(1e-9, sum(amount for amount, _ in spent))


@contextmanager
def _timed(spent: deque[tuple[float, float]], amount: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    spent.append((amount, time.monotonic() - began))
