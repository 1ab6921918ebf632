"""One turn's sound on its way from who takes it in to who hears it, in bounded pieces."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

import numpy as np

from services.openai.realtime import new_id
from services.transcription.engines.protocol import SAMPLE_RATE_HZ, WINDOW_S

if TYPE_CHECKING:
    from services.audio.pcm import Samples
    from services.transcription.session import Session

PIECE_SAMPLES: Final = int((WINDOW_S - 2) * SAMPLE_RATE_HZ)
"""A turn that is longer is heard in pieces, cut where it is quiet; a guess holds at most one."""

_SEARCHED: Final = 8 * SAMPLE_RATE_HZ  # where a piece may end: its last seconds
_HOP: Final = SAMPLE_RATE_HZ // 50
_QUIET_HOPS: Final = 10  # the pause that is looked for: 0.2 s
_NOTHING: Final = np.zeros(0, dtype=np.float32)


class Item:
    """A turn, from its first sound to its text.

    Attributes:
        id: `item_…`.
        session: what was in force when it began.
        audible: whether somebody was heard to speak in it; before that, only the last
            `PIECE_SAMPLES` are kept.
        samples: how many came in all.
        ended: whether all of it is there.
        dropped: whether nobody wants its text any more.
    """

    def __init__(self, session: Session, *, audible: bool) -> None:
        self.id = new_id("item")
        self.session = session
        self.audible = audible
        self.samples = 0
        self.ended = False
        self.dropped = False
        self._pieces: deque[Samples] = deque()
        self._open: list[Samples] = []
        self._open_size = 0
        self._news = asyncio.Event()

    @property
    def held(self) -> int:
        """How many samples wait to be heard."""
        return self._open_size + sum(piece.size for piece in self._pieces)

    @property
    def due(self) -> bool:
        """Whether there is something to hear."""
        return self.audible or self.ended or self.dropped

    @property
    def complete(self) -> bool:
        """Whether the piece that is heard now will not grow any more."""
        return self.ended or self.dropped or bool(self._pieces)

    def add(self, samples: Samples) -> None:
        """Take more of the turn, float32 [N] at `SAMPLE_RATE_HZ`."""
        self.samples += samples.size
        if self.dropped or not samples.size:
            return
        self._open.append(samples)
        self._open_size += samples.size
        while not self.audible and self._open_size - self._open[0].size >= PIECE_SAMPLES:
            self._open_size -= self._open.pop(0).size
        while self._open_size >= PIECE_SAMPLES and self.audible:
            sound = np.concatenate(self._open)
            cut = _quietest(sound[:PIECE_SAMPLES])
            self._pieces.append(sound[:cut])
            self._open, self._open_size = [sound[cut:]], sound.size - cut
        self._news.set()

    def speak(self) -> None:
        """Note that somebody speaks in it."""
        self.audible = True
        self._news.set()

    def end(self) -> None:
        """Note that all of it is there."""
        self.ended = True
        self._news.set()

    def drop(self) -> None:
        """Forget its sound, and what comes of it yet."""
        self.dropped = True
        self._pieces.clear()
        self._open, self._open_size = [], 0
        self._news.set()

    def sound(self) -> Samples:
        """Return the piece that is heard now, as far as it is there."""
        return self._pieces[0] if self._pieces else np.concatenate([_NOTHING, *self._open])

    def take(self) -> Samples | None:
        """Take away the piece that is heard now, once it is complete; None after the last."""
        if self._pieces:
            return self._pieces.popleft()
        sound = self.sound()
        self._open, self._open_size = [], 0
        return sound if sound.size else None

    async def until_due(self) -> None:
        """Wait until there is something to hear."""
        while not self.due:
            await self._changed()

    async def until_grown(self, size: int) -> None:
        """Wait until the piece that is heard now has `size` samples, or is complete."""
        while not self.complete and self._open_size < size:
            await self._changed()

    async def until_complete(self) -> None:
        """Wait until the piece that is heard now is complete."""
        while not self.complete:
            await self._changed()

    async def _changed(self) -> None:
        self._news.clear()
        await self._news.wait()


def _quietest(sound: Samples) -> int:
    """Return the middle of the quietest pause at the end of `sound`."""
    begin = sound.size - _SEARCHED
    hops = sound[begin : begin + _SEARCHED // _HOP * _HOP].reshape(-1, _HOP)
    energy = np.square(hops).mean(axis=1)
    pauses = np.convolve(energy, np.ones(_QUIET_HOPS), mode="valid")
    return begin + (int(pauses.argmin()) + _QUIET_HOPS // 2) * _HOP
