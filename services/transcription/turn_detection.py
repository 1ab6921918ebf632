"""Where turns begin and end in sound that comes as it is spoken: OpenAI's `server_vad`."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from services.transcription.engines.protocol import SAMPLE_RATE_HZ, VAD_FRAME_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.audio.pcm import Samples
    from services.transcription.engines.protocol import Cutting, SpeechDetector

_NOTHING: Final = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True)
class Started:
    """Somebody speaks; `start_ms` is where the turn's sound begins, padding included."""

    start_ms: int


@dataclass(frozen=True)
class Sound:
    """The turn's sound, float32 [N] at `SAMPLE_RATE_HZ`, in order and without a gap.

    Attributes:
        samples: the sound.
        speech: whether somebody speaks in it.
    """

    samples: Samples
    speech: bool


@dataclass(frozen=True)
class Stopped:
    """Nobody speaks any more; `end_ms` is where the turn's sound ends, its silence included."""

    end_ms: int


TurnEvent: TypeAlias = Started | Sound | Stopped


class TurnDetector:
    """Finds turns; times are milliseconds of all the sound that it was fed.

    The sound of a turn begins `prefix_padding_ms` before the first frame of speech, as far as that
    is not the turn before, and ends with the frame that fills `silence_duration_ms`.
    """

    def __init__(self, detector: SpeechDetector, cutting: Cutting, begin_samples: int = 0) -> None:
        """Begin in silence, at `begin_samples` of all the sound; `detector` is a fresh one."""
        self.speaking = False
        self._detector = detector
        self._cutting = cutting
        self._at = begin_samples
        self._rest = _NOTHING
        self._padding: deque[Samples] = deque()
        self._padded = 0
        self._silent = 0

    def feed(self, samples: Samples) -> Iterator[TurnEvent]:
        """Take float32 [N] at `SAMPLE_RATE_HZ`; yield what that brought, by whole frames."""
        samples = np.concatenate([self._rest, samples]) if self._rest.size else samples
        count = samples.size // VAD_FRAME_SAMPLES
        whole = count * VAD_FRAME_SAMPLES
        self._rest = samples[whole:]
        begin, speech = 0, False  # of the sound of this turn that was not yielded yet
        for index, probability in enumerate(self._detector.feed(samples[:whole])):
            frame = slice(index * VAD_FRAME_SAMPLES, (index + 1) * VAD_FRAME_SAMPLES)
            if not self.speaking:
                if probability < self._cutting.threshold:
                    self._keep(samples[frame])
                    self._at += VAD_FRAME_SAMPLES
                    continue
                self.speaking, self._silent = True, 0
                padding = self._take_padding()
                yield Started(_ms(self._at - padding.size))
                if padding.size:
                    yield Sound(padding, speech=False)
                begin, speech = frame.start, True
            self._at += VAD_FRAME_SAMPLES
            ends = self._ends(probability)
            speech = speech or not self._silent
            if ends:
                self.speaking = False
                yield Sound(samples[begin : frame.stop], speech)
                yield Stopped(_ms(self._at))
        if self.speaking and begin < whole:
            yield Sound(samples[begin:whole], speech)

    def cut(self) -> Samples:
        """End the turn under way here, without an event; return what it has had no frame for yet.

        Whoever goes on speaking begins another turn, which has no sound of this one.
        """
        rest = self._rest if self.speaking else _NOTHING
        self._at += self._rest.size
        self._rest = _NOTHING
        self.speaking = False
        self._take_padding()
        return rest

    def _ends(self, probability: float) -> bool:
        if probability >= self._cutting.end_threshold:
            self._silent = 0
            return False
        self._silent += VAD_FRAME_SAMPLES
        return _ms(self._silent) >= self._cutting.silence_duration_ms

    def _keep(self, frame: Samples) -> None:
        most = self._cutting.prefix_padding_ms * SAMPLE_RATE_HZ // 1000
        self._padding.append(frame)
        self._padded += frame.size
        while self._padding and self._padded - self._padding[0].size >= most:
            self._padded -= self._padding.popleft().size

    def _take_padding(self) -> Samples:
        most = self._cutting.prefix_padding_ms * SAMPLE_RATE_HZ // 1000
        kept = np.concatenate([_NOTHING, *self._padding])
        self._padding.clear()
        self._padded = 0
        return kept[max(0, kept.size - most) :]


def _ms(samples: int) -> int:
    return samples * 1000 // SAMPLE_RATE_HZ
