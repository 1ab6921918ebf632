"""Turns: where they begin and end in live audio, and their audio on its way to the transcriber."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from services.audio.pcm import Samples
from services.openai.answers import new_id
from services.transcription.engines.protocol import (
    SAMPLE_RATE_HZ,
    VAD_FRAME_SAMPLES,
    WINDOW_S,
    Cutting,
    SpeechDetector,
)
from services.transcription.live.session import Session

PIECE_SAMPLES: Final = int((WINDOW_S - 2) * SAMPLE_RATE_HZ)
"""Longer turns are transcribed in pieces; a guess sees at most one, and the step it came in."""

SOUGHT_SAMPLES: Final = 20 * SAMPLE_RATE_HZ
"""From this length on, a piece ends at the first pause."""

# A piece is cut at its current end: text of what is before may have been sent already.
_TAIL: Final = int(0.6 * SAMPLE_RATE_HZ)
_HOP: Final = SAMPLE_RATE_HZ // 50
_PAUSE_HOPS: Final = 10  # 0.2 s
_QUIET: Final = 0.05  # of the mean energy
_BEFORE_SPEECH: Final = SAMPLE_RATE_HZ
_NOTHING: Final = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True)
class Sound:
    """A part of a turn, float32 [N] at `SAMPLE_RATE_HZ`, and whether somebody speaks in it."""

    samples: Samples
    speech: bool


class Turn:
    """A turn, from its first audio to its text.

    Until it is `audible`, as somebody has spoken in it, only the last `PIECE_SAMPLES` are kept.
    """

    def __init__(self, session: Session, *, audible: bool, start_ms: int = 0) -> None:
        self.id = new_id("item")
        self.session = session  # the settings when it began
        self.start_ms = start_ms  # where it begins in the audio of the session
        self.audible = audible
        self.samples = 0  # how many have arrived in all
        self.ended = False  # whether it is complete
        self._dropped = False
        self._pieces: deque[Sound] = deque()
        self._open: list[Samples] = []
        self._open_size = 0
        self._energy = 0.0  # of the open piece
        self._speech = 0  # where in it somebody spoke last
        self._news = asyncio.Event()

    @property
    def held(self) -> int:
        """How many samples wait to be transcribed."""
        return self._open_size + sum(piece.samples.size for piece in self._pieces)

    def place_ms(self, samples: int) -> int:
        """Return where the first `samples` of the current piece end in the audio of the session."""
        return self.start_ms + (self.samples - self.held + samples) * 1000 // SAMPLE_RATE_HZ

    @property
    def due(self) -> bool:
        """Whether there is something to transcribe."""
        return self.audible or self.ended

    @property
    def complete(self) -> bool:
        """Whether the current piece will not grow any more."""
        return self.ended or bool(self._pieces)

    def add(self, samples: Samples, *, speech: bool) -> None:
        """Take more of the turn, float32 [N] at `SAMPLE_RATE_HZ`, ideally a fraction of a second.

        `speech` tells whether somebody speaks in it.
        """
        self.samples += samples.size
        if self._dropped or not samples.size:
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
            self._pieces.append(Sound(sound[:cut], speech=self._speech > 0))
            self._begin(sound[cut:].copy(), max(0, speech_after))
        self._news.set()

    def end(self) -> None:
        """Mark it complete."""
        self.ended = True
        self._news.set()

    def drop(self) -> None:
        """Forget its audio, and ignore any more of it: nobody transcribes it."""
        self._dropped = True
        self._pieces.clear()
        self._begin(_NOTHING)

    def sound(self) -> Samples:
        """Return what there is of the current piece."""
        return self._pieces[0].samples if self._pieces else np.concatenate([_NOTHING, *self._open])

    def take(self) -> Sound | None:
        """Remove and return the current piece once it is complete; None after the last."""
        if self._pieces:
            return self._pieces.popleft()
        piece = Sound(self.sound(), speech=self._speech > 0)
        self._begin(_NOTHING)
        return piece if piece.samples.size else None

    def grown(self, size: int, since: int) -> bool:
        """Whether the current piece is complete, or has `size` samples and speech after `since`."""
        return self.complete or (self._open_size >= size and self._speech > since)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds that changes as audio arrives."""
        while not holds():
            self._news.clear()
            await self._news.wait()

    def _begin(self, sound: Samples, speech: int = 0) -> None:
        self._open, self._open_size, self._speech = [sound], sound.size, speech
        self._energy = float(np.square(sound).sum())

    def _pause(self) -> int | None:
        """Return where the piece can end: in a pause at its end, or once it is at its limit."""
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


@dataclass(frozen=True)
class Started:
    """Somebody speaks; `start_ms` is where the turn's audio begins, padding included."""

    start_ms: int


@dataclass(frozen=True)
class Stopped:
    """Nobody speaks any more; `end_ms` is where the turn's audio ends, its silence included."""

    end_ms: int


TurnEvent: TypeAlias = Started | Sound | Stopped


class TurnDetector:
    """Finds turns, as OpenAI's `server_vad`; times are in milliseconds of all that it was fed.

    The audio of a turn begins `prefix_padding_ms` before the first frame of speech, but not within
    the turn before. It ends with the frame that completes `silence_duration_ms`. Speech that ends
    before `min_speech_duration_ms` is no turn.
    """

    def __init__(self, detector: SpeechDetector, cutting: Cutting, begin_samples: int = 0) -> None:
        """Start in silence, `begin_samples` into the audio; `detector` is a new one."""
        self.speaking = False
        self._detector = detector
        self._cutting = cutting
        self._at = begin_samples
        self._rest = _NOTHING
        self._padding = _NOTHING
        self._silent = 0
        self._loud = 0  # how much of what may become a turn is speech

    def feed(self, samples: Samples) -> Iterator[TurnEvent]:
        """Take float32 [N] at `SAMPLE_RATE_HZ`; yield events, and the turn's audio without gaps."""
        samples = np.concatenate([self._rest, samples])
        whole = samples.size // VAD_FRAME_SAMPLES * VAD_FRAME_SAMPLES
        samples, self._rest = samples[:whole], samples[whole:]
        frames = samples.reshape(-1, VAD_FRAME_SAMPLES)
        for frame, probability in zip(frames, self._detector.feed(samples), strict=True):
            if not self.speaking:
                if not self._begins(probability):
                    self._keep(frame)
                    self._at += VAD_FRAME_SAMPLES
                    continue
                self.speaking, self._silent = True, 0
                padding, self._padding = self._padding, _NOTHING
                spoken, self._loud = self._loud > VAD_FRAME_SAMPLES, 0
                yield Started(_ms(self._at - padding.size))
                if padding.size:
                    yield Sound(padding, speech=spoken)
            self._at += VAD_FRAME_SAMPLES
            self.speaking = not self._ends(probability)
            yield Sound(frame, speech=not self._silent)
            if not self.speaking:
                yield Stopped(_ms(self._at))

    def cut(self) -> Samples:
        """End the current turn here, without an event; return its incomplete frame.

        If the speaker goes on, that is another turn, which has no audio of this one.
        """
        rest = self._rest if self.speaking else _NOTHING
        self._at += self._rest.size
        self._rest = self._padding = _NOTHING
        self.speaking = False
        self._loud = 0
        return rest

    def _begins(self, probability: float) -> bool:
        cutting = self._cutting
        if probability < (cutting.end_threshold if self._loud else cutting.threshold):
            self._loud = 0
            return False
        self._loud += VAD_FRAME_SAMPLES
        return _ms(self._loud) >= cutting.min_speech_duration_ms

    def _ends(self, probability: float) -> bool:
        if probability >= self._cutting.end_threshold:
            self._silent = 0
            return False
        self._silent += VAD_FRAME_SAMPLES
        return _ms(self._silent) >= self._cutting.silence_duration_ms

    def _keep(self, frame: Samples) -> None:
        most = self._cutting.prefix_padding_ms * SAMPLE_RATE_HZ // 1000 + self._loud
        kept = np.concatenate([self._padding, frame])
        self._padding = kept[max(0, kept.size - most) :]


def _ms(samples: int) -> int:
    return samples * 1000 // SAMPLE_RATE_HZ
