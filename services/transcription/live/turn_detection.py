"""Where turns begin and end in live audio: OpenAI's `server_vad`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from services.transcription.engines.protocol import SAMPLE_RATE_HZ, VAD_FRAME_SAMPLES
from services.transcription.live.turn import Sound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.audio.pcm import Samples
    from services.transcription.engines.protocol import Cutting, SpeechDetector

_NOTHING: Final = np.zeros(0, dtype=np.float32)


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
    """Finds turns; times are in milliseconds of all the audio that it was fed.

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
        samples = np.concatenate([self._rest, samples]) if self._rest.size else samples
        count = samples.size // VAD_FRAME_SAMPLES
        whole = count * VAD_FRAME_SAMPLES
        self._rest = samples[whole:]
        begin, speech = 0, False  # of this turn's audio that was not yielded yet
        for index, probability in enumerate(self._detector.feed(samples[:whole])):
            frame = slice(index * VAD_FRAME_SAMPLES, (index + 1) * VAD_FRAME_SAMPLES)
            if not self.speaking:
                if not self._begins(probability):
                    self._keep(samples[frame])
                    self._at += VAD_FRAME_SAMPLES
                    continue
                self.speaking, self._silent = True, 0
                padding, self._padding = self._padding, _NOTHING
                spoken, self._loud = self._loud > VAD_FRAME_SAMPLES, 0
                yield Started(_ms(self._at - padding.size))
                if padding.size:
                    yield Sound(padding, speech=spoken)
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
