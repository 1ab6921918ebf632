"""Pocketsphinx's decoder with the model of its package, and how it is made to hear best.

The library holds Python's lock while it works, so sound is fed in short pieces, between which
others get their turn, and what it would do at the end of an utterance, a second pass, is off.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from services.transcription.engines.protocol import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from services.audio.pcm import Samples

_PIECE: Final = SAMPLE_RATE_HZ // 25  # takes it some 10 ms
_LEVEL: Final = 0.7  # of the loudest sample
# The model knows recorded speech, which is never as quiet as a synthetic voice's pauses.
_NOISE: Final = 0.002
_MEASURED: Final = 5 * SAMPLE_RATE_HZ
_MEASURINGS: Final = 3  # each brings the mean half of the way or more
_WORD: Final = re.compile(r"[a-z'.-]+")  # fillers are <sil> and [NOISE]
_FRAMES_PER_S: Final = 100
_LEAST_CHANCE: Final = 1e-10


@dataclass(frozen=True)
class Said:
    """A word, its times in seconds of what was decoded, and the logarithm of its probability."""

    text: str
    start_s: float
    end_s: float
    logprob: float


class Decoder:
    """Decodes one stretch of speech at a time."""

    def __init__(self) -> None:
        """Load the model, which takes a second."""
        import pocketsphinx  # noqa: PLC0415  heavy

        self._decoder: Any = pocketsphinx.Decoder(loglevel="FATAL", fwdflat=False)
        self._words = self._decoder.current_search()
        # Any phrase does: looking for one is a cheap way to have the sound measured.
        self._decoder.add_keyphrase("measure", "hello")

    def words(self, samples: Samples, is_wanted: Callable[[], bool]) -> list[Said]:
        """Return the words that are said in float32 [N] at `SAMPLE_RATE_HZ`.

        Once `is_wanted` returns False, it stops.
        """
        sound = _prepared(samples)
        if not sound.size:
            return []
        # The mean of the spectrum, which depends on voice and microphone, is to be known before the
        # first word: it is measured, beginning at the usual one and not at that of another voice.
        self._decoder.reinit_feat()
        self._decoder.activate_search("measure")
        for _ in range(_MEASURINGS):
            self._feed(sound[:_MEASURED], is_wanted)
        self._decoder.activate_search(self._words)
        self._feed(sound, is_wanted)
        return [*self._found()] if is_wanted() else []

    def _feed(self, sound: NDArray[np.int16], is_wanted: Callable[[], bool]) -> None:
        self._decoder.start_utt()
        try:
            for begin in range(0, sound.size, _PIECE):
                if not is_wanted():
                    break
                self._decoder.process_raw(sound[begin : begin + _PIECE].tobytes())
        finally:
            self._decoder.end_utt()

    def _found(self) -> Iterator[Said]:
        for one in self._decoder.seg() or ():
            word = one.word.partition("(")[0]  # the number of the pronunciation follows
            if _WORD.fullmatch(word):
                start, end = one.start_frame, one.end_frame + 1
                logprob = math.log(max(min(one.prob, 1.0), _LEAST_CHANCE))
                yield Said(word, start / _FRAMES_PER_S, end / _FRAMES_PER_S, logprob)


def _prepared(samples: Samples) -> NDArray[np.int16]:
    """Return sound at the usual level, with a little noise, always the same."""
    loudest = float(np.abs(samples).max(initial=0.0))
    if not loudest:
        return np.zeros(0, dtype=np.int16)
    noise = np.random.default_rng(0).standard_normal(samples.size, dtype=np.float32)
    sound = samples * (_LEVEL / loudest) + _NOISE * noise
    return (np.clip(sound, -1, 1) * 32767).astype("<i2")
