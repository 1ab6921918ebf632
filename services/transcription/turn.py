"""One turn's sound on its way from who takes it in to who hears it, in bounded pieces."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from services.openai.events import new_id
from services.transcription.engines.protocol import SAMPLE_RATE_HZ, WINDOW_S

if TYPE_CHECKING:
    from services.audio.pcm import Samples
    from services.transcription.session import Session

PIECE_SAMPLES: Final = int((WINDOW_S - 2) * SAMPLE_RATE_HZ)
"""A turn that is longer is heard in pieces; a guess holds at most one, and the step it came in."""

SOUGHT_SAMPLES: Final = 20 * SAMPLE_RATE_HZ
"""From here on, a piece ends at the first pause."""

# A piece is cut where its sound comes in: what is before may have been said already, for good.
_TAIL: Final = int(0.6 * SAMPLE_RATE_HZ)
_HOP: Final = SAMPLE_RATE_HZ // 50
_PAUSE_HOPS: Final = 10  # 0.2 s
_QUIET: Final = 0.05  # of the mean energy
_BEFORE_SPEECH: Final = SAMPLE_RATE_HZ
_NOTHING: Final = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True)
class Piece:
    """Sound that is heard at once; `speech` false where nobody is heard in it."""

    samples: Samples
    speech: bool


class Turn:
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
        self._pieces: deque[Piece] = deque()
        self._open: list[Samples] = []
        self._open_size = 0
        self._energy = 0.0  # of what is open
        self._speech = 0  # where in it somebody was heard last
        self._news = asyncio.Event()

    @property
    def held(self) -> int:
        """How many samples wait to be heard."""
        return self._open_size + sum(piece.samples.size for piece in self._pieces)

    @property
    def due(self) -> bool:
        """Whether there is something to hear."""
        return self.audible or self.ended or self.dropped

    @property
    def complete(self) -> bool:
        """Whether the piece that is heard now will not grow any more."""
        return self.ended or self.dropped or bool(self._pieces)

    def add(self, samples: Samples, *, speech: bool) -> None:
        """Take more of the turn, float32 [N] at `SAMPLE_RATE_HZ`; best a fraction of a second.

        `speech` is whether somebody speaks in it.
        """
        self.samples += samples.size
        if self.dropped or not samples.size:
            return
        if speech and not self.audible:
            self.audible = True
            self._begin(self.sound()[-_BEFORE_SPEECH:])
        self._open.append(samples)
        self._open_size += samples.size
        self._energy += float(np.square(samples).sum())
        if speech:
            self._speech = self._open_size
        if not self.audible:
            while self._open_size - self._open[0].size >= PIECE_SAMPLES:
                self._open_size -= self._open.pop(0).size
        elif self._open_size >= SOUGHT_SAMPLES and (cut := self._pause()):
            sound = np.concatenate(self._open)
            speech_after = self._speech - cut
            self._pieces.append(Piece(sound[:cut], speech=self._speech > 0))
            self._begin(sound[cut:].copy(), max(0, speech_after))
        self._news.set()

    def end(self) -> None:
        """Note that all of it is there."""
        self.ended = True
        self._news.set()

    def drop(self) -> None:
        """Forget its sound, and what comes of it yet."""
        self.dropped = True
        self._pieces.clear()
        self._begin(_NOTHING)
        self._news.set()

    def sound(self) -> Samples:
        """Return the piece that is heard now, as far as it is there."""
        return self._pieces[0].samples if self._pieces else np.concatenate([_NOTHING, *self._open])

    def take(self) -> Piece | None:
        """Take away the piece that is heard now, once it is complete; None after the last."""
        if self._pieces:
            return self._pieces.popleft()
        piece = Piece(self.sound(), speech=self._speech > 0)
        self._begin(_NOTHING)
        return piece if piece.samples.size else None

    async def until_due(self) -> None:
        """Wait until there is something to hear."""
        while not self.due:
            await self._changed()

    async def until_grown(self, size: int, since: int) -> None:
        """Wait until the piece that is heard now has `size` samples, or is complete.

        And until somebody has spoken in what came after `since` samples of it.
        """
        while not self.complete and (self._open_size < size or self._speech <= since):
            await self._changed()

    async def until_complete(self) -> None:
        """Wait until the piece that is heard now is complete."""
        while not self.complete:
            await self._changed()

    def _begin(self, sound: Samples, speech: int = 0) -> None:
        self._open, self._open_size, self._speech = [sound], sound.size, speech
        self._energy = float(np.square(sound).sum())

    def _pause(self) -> int | None:
        """Return where the piece may end: in a pause that is there now, or at its limit."""
        tail: list[Samples] = []
        size = 0
        for part in reversed(self._open):
            tail.insert(0, part)
            size += part.size
            if size >= _TAIL:
                break
        hops = np.concatenate(tail)[-_TAIL:].reshape(-1, _HOP)
        energy = np.square(hops).mean(axis=1)
        pauses = np.convolve(energy, np.full(_PAUSE_HOPS, 1 / _PAUSE_HOPS), mode="valid")
        best = int(pauses.argmin())
        if (
            self._open_size < PIECE_SAMPLES
            and pauses[best] > _QUIET * self._energy / self._open_size
        ):
            return None
        return self._open_size - _TAIL + (best + _PAUSE_HOPS // 2) * _HOP

    async def _changed(self) -> None:
        self._news.clear()
        await self._news.wait()
