"""Live translation's hearing, which makes segments of the ear's events, and its clock.

A listener plays what they get without a break, in real time. A client that sends sound faster than
somebody speaks is taken to speak in real time, too: a recording is not late.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Final

from services.conversation.live.ear import HEARD
from services.conversation.speech_translation.stages import Segment

LONGEST_S: Final = 8.0
"""Speech without the end of a sentence is cut after so long, at a clause or a word."""

MOST_LAG_S: Final = 30.0
"""A sentence that would be heard later than this is left out, and the client is told."""

MOST_SPEED: Final = 1.25
"""How fast the voice speaks at most: still easy to follow."""

_WAITING_S: Final = 1.0  # of sound that a listener may have waiting before the voice is faster
_FULL_S: Final = 6.0  # and with this much it is fastest
_TRANSCRIPTION: Final = "conversation.item.input_audio_transcription."
_HELD: Final = 64  # segments; then the ear is not read
_SILENCE_MS: Final = HEARD["turn_detection"]["silence_duration_ms"]


@dataclass
class _Turn:
    """A turn whose text is not complete: up to where it is known, and where the speech ended."""

    known_s: float
    stopped_s: float = math.inf


class Hearing:
    """Turns the ear's events into segments."""

    def __init__(self) -> None:
        self.begin_s = 0.0  # where the audio of the ear's session begins in that of ours
        self._turns: dict[str, _Turn] = {}
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._segments: asyncio.Queue[tuple[Segment | None] | None] = asyncio.Queue(_HELD)

    async def segments(self) -> AsyncGenerator[Segment | None, None]:
        """Yield each piece of text as soon as it is certain, and None at each pause."""
        while (one := await self._segments.get()) is not None:
            yield one[0]

    async def take(self, event: dict[str, Any]) -> Segment | None:
        """Take an event about a turn; return the text that it brought.

        It waits while the translation is far behind.
        """
        kind: str = event["type"]
        turn = self._turns.get(event.get("item_id", ""))
        if kind == "input_audio_buffer.speech_started":
            self._turns[event["item_id"]] = _Turn(self._place_s(event["audio_start_ms"]))
            self._quiet.clear()
        elif turn is None:
            pass
        elif kind == "input_audio_buffer.speech_stopped":
            turn.stopped_s = self._place_s(event["audio_end_ms"] - _SILENCE_MS)
        elif kind == f"{_TRANSCRIPTION}delta":
            end_s = min(self._place_s(event["audio_end_ms"]), turn.stopped_s)
            segment = Segment(turn.known_s, max(turn.known_s, end_s), event["delta"])
            turn.known_s = segment.end_s
            await self._segments.put((segment,))
            return segment
        elif kind in (f"{_TRANSCRIPTION}completed", f"{_TRANSCRIPTION}failed"):
            await self._segments.put((None,))
            del self._turns[event["item_id"]]
            self._settle()
        return None

    async def lose(self) -> None:
        """The ear broke: the turns that are not complete never will be."""
        self._turns.clear()
        await self._segments.put((None,))
        self._settle()

    async def end(self) -> None:
        """Wait for the text of all turns; then `segments` ends."""
        await self._quiet.wait()
        await self._segments.put(None)

    def _place_s(self, ear_ms: int) -> float:
        return self.begin_s + ear_ms / 1000

    def _settle(self) -> None:
        if not self._turns:
            self._quiet.set()


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
