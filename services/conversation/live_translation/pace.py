"""How long after the speaker a listener hears the translation, and what keeps that short.

A listener plays what they get without a break, in real time. A client that sends sound faster than
somebody speaks is taken to speak in real time, too: a recording is not late.
"""

from __future__ import annotations

import time
from typing import Final

MOST_LAG_S: Final = 30.0
"""A sentence that would be heard later than this is left out, and the client is told."""

MOST_SPEED: Final = 1.25
"""How fast the voice speaks at most: still easy to follow."""

_WAITING_S: Final = 1.0  # of sound that a listener may have waiting before the voice is faster
_FULL_S: Final = 6.0  # and with this much it is fastest


class Pace:
    """The clock of one session; times of the input are seconds since its first sound."""

    def __init__(self) -> None:
        self.heard_s = 0.0
        self._began = float("-inf")  # when the first sound was said; later if the client fell back
        self._played = 0.0  # when all that was sent is played

    def hear(self, seconds: float) -> None:
        """Note that so much more of the input has arrived."""
        self.heard_s += seconds
        self._began = max(self._began, time.monotonic() - self.heard_s)

    def speak(self, seconds: float) -> None:
        """Note that so much more sound was sent."""
        self._played = max(self._played, time.monotonic()) + seconds

    def lag_s(self, said_s: float) -> float:
        """Return how long after a moment of the input what is sent now is heard."""
        return max(0.0, max(self._played, time.monotonic()) - self._began - said_s)

    def speed(self, said_s: float) -> float:
        """Return how fast to say what was said until then.

        Translations are often longer than what was said. What counts is sound that waits to be
        played while the speaker is ahead: a slow engine is no reason to hurry.
        """
        waiting_s = min(self._played - time.monotonic(), self.lag_s(said_s))
        hurry = (waiting_s - _WAITING_S) / (_FULL_S - _WAITING_S)
        return round(1.0 + (MOST_SPEED - 1.0) * min(1.0, max(0.0, hurry)), 2)
