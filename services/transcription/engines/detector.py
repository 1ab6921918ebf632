"""The Silero detector that faster-whisper ships, as a stream: it keeps its state between calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from services.errors import EngineError
from services.transcription.engines.protocol import VAD_FRAME_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.audio.pcm import Samples

_CONTEXT: Final = 64  # samples before a frame that the model sees along with it
_STATE: Final = (1, 1, 128)


class SileroDetector:
    """Tells speech from silence; see `SpeechDetector`."""

    def __init__(self) -> None:
        """Start in silence; the first one loads the model, which takes a second."""
        from faster_whisper.vad import get_vad_model  # noqa: PLC0415  heavy

        self._session = get_vad_model().session  # one for all detectors
        self._h = np.zeros(_STATE, dtype=np.float32)
        self._c = np.zeros(_STATE, dtype=np.float32)
        self._context = np.zeros(_CONTEXT, dtype=np.float32)
        self._rest = np.zeros(0, dtype=np.float32)

    def feed(self, samples: Samples) -> Sequence[float]:
        """Return P(speech) of each frame that is complete now; see `SpeechDetector.feed`.

        Raises:
            EngineError: the model failed.
        """
        known = np.concatenate([self._context, self._rest, samples])
        count = (known.size - _CONTEXT) // VAD_FRAME_SAMPLES
        end = _CONTEXT + count * VAD_FRAME_SAMPLES
        self._context, self._rest = known[end - _CONTEXT : end], known[end:]
        if not count:
            return []
        frames = np.lib.stride_tricks.sliding_window_view(
            known[:end], _CONTEXT + VAD_FRAME_SAMPLES
        )[::VAD_FRAME_SAMPLES]
        try:
            speech, self._h, self._c = self._session.run(
                None, {"input": np.ascontiguousarray(frames), "h": self._h, "c": self._c}
            )
        except Exception as error:
            raise EngineError("the speech detector failed", code="engine_failed") from error
        probabilities: list[float] = speech.reshape(-1).tolist()
        return probabilities
