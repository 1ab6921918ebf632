"""Kokoro's graph on onnxruntime, and the styles of its voices."""

# ruff: noqa: RUF001 (phonemes)

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from services.audio.pcm import amplified
from services.speech.engines.kokoro.phonemes import ids_of
from services.speech.engines.kokoro.voices import Mix

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from services.audio.pcm import Samples

Style = NDArray[np.float32]
"""A voice, [510, 256]: a row for each number of phonemes."""

SAMPLE_RATE_HZ: Final = 24_000
SPEEDS: Final = (0.5, 2.0)
"""The speeds that the model itself can speak at."""

_ROWS: Final = 510
_WIDTH: Final = 256
_DTYPES: Final = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
_SAMPLE: Final = "ðə wˈɛðəɹ wʌz kˈOld ænd wˈɛt."
_LEVEL_DB: Final = -20.0  # of what sounds, as loud as the other engines
_MOST_GAIN_DB: Final = 12.0
_SMOOTHING: Final = 0.2
_SHARE: Final = 0.6  # streams that begin at once wait for each other
_MOST_GAINS: Final = 256
_QUIET: Final = 0.003  # of the peak: 50 dB below it
_BLOCK: Final = 120  # samples, 5 ms
_MARGIN: Final = 4  # blocks kept around what sounds


class Model:
    """A graph in memory with the voices that lie beside it; one thread at a time may use it.

    Attributes:
        pace: how many seconds of speech it has recently made in a second.
    """

    def __init__(self, graph: Path, styles: Mapping[str, Style], threads: int) -> None:
        """Load the graph, which takes a second.

        Raises:
            ValueError: it is not Kokoro's, or there are no voices.
            Exception: onnxruntime's, if it cannot be read.
        """
        import onnxruntime  # noqa: PLC0415  heavy

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that wait would take the cores from other roles.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session: Any = onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {one.name: _DTYPES.get(one.type) for one in self._session.get_inputs()}
        self._tokens = "input_ids" if "input_ids" in self._inputs else "tokens"
        if set(self._inputs) != {self._tokens, "style", "speed"}:
            raise ValueError(f"its inputs are {', '.join(self._inputs)}")
        if not styles:
            raise ValueError("there are no voices")
        self._styles = styles
        self._gains_db: dict[Mix, float] = {}
        self.pace = 0.0

    @property
    def voices(self) -> tuple[str, ...]:
        """The names of the voices that are there."""
        return tuple(self._styles)

    @property
    def streams(self) -> int:
        """How many streams it makes faster than they play, two fifths of its time left over."""
        return max(1, int(_SHARE * self.pace))

    def warm_up(self) -> None:
        """Speak twice: the first run finds out how much memory it takes, the second its pace."""
        mix = Mix(((self.voices[0], 1.0),))
        self._gain_db(mix, None)
        self.pace = 0.0
        self.say(_SAMPLE, mix, 1.0)

    def say(self, phonemes: str, mix: Mix, speed: float, run: Any = None) -> Samples:
        """Return phonemes as speech, float32 [N], without the silence around it.

        All voices are equally loud; the first use of one takes a run more.

        Args:
            phonemes: 1 to 509 of Kokoro's.
            mix: voices that are there.
            speed: within `SPEEDS`.
            run: onnxruntime's `RunOptions`, whose `terminate` ends it at once.

        Raises:
            Exception: onnxruntime's, or it was stopped.
        """
        gain_db = self._gain_db(mix, run)
        return amplified(self._say(phonemes, mix, speed, run), gain_db)

    def _gain_db(self, mix: Mix, run: Any) -> float:
        if mix not in self._gains_db:
            level = loudness_db(self._say(_SAMPLE, mix, 1.0, run))
            gain = _LEVEL_DB - level if math.isfinite(level) else 0.0
            if len(self._gains_db) >= _MOST_GAINS:
                del self._gains_db[next(iter(self._gains_db))]
            self._gains_db[mix] = min(gain, _MOST_GAIN_DB)
        return self._gains_db[mix]

    def _say(self, phonemes: str, mix: Mix, speed: float, run: Any) -> Samples:
        ids = ids_of(phonemes)
        row = min(len(ids), _ROWS) - 1
        style = sum(
            (self._styles[name][row] * np.float32(weight) for name, weight in mix.parts),
            np.zeros(_WIDTH, dtype=np.float32),
        )
        feed = {
            self._tokens: np.array([[0, *ids, 0]], dtype=self._inputs[self._tokens]),
            "style": style[np.newaxis].astype(self._inputs["style"]),
            "speed": np.array([speed], dtype=self._inputs["speed"]),
        }
        began = time.monotonic()
        said = self._session.run(None, feed, run)[0]
        pace = said.size / SAMPLE_RATE_HZ / (time.monotonic() - began)
        self.pace += (_SMOOTHING if self.pace else 1.0) * (pace - self.pace)
        return _without_silence(np.asarray(said, dtype=np.float32).reshape(-1))


def styles_in(folder: Path) -> dict[str, Style]:
    """Read a folder's voices: `voices/*.bin`, as on the hub, or `voices*.npz`, as in kokoro-onnx.

    Raises:
        ValueError: a file does not contain a voice.
        OSError: a file cannot be read.
    """
    found: dict[str, Any] = {
        path.stem: np.fromfile(path, dtype="<f4") for path in (folder / "voices").glob("*.bin")
    }
    for path in (*folder.glob("voices*.npz"), *folder.glob("voices*.bin")):
        with np.load(path) as voices:
            found.update({name: voices[name] for name in voices.files})
    for name, values in found.items():
        if values.size != _ROWS * _WIDTH:
            raise ValueError(
                f"voice {name} in {folder} has {values.size} numbers, not {_ROWS} x {_WIDTH}"
            )
    return {
        name: values.reshape(_ROWS, _WIDTH).astype(np.float32)
        for name, values in sorted(found.items())
    }


def loudness_db(samples: Samples) -> float:
    """Return the level of what sounds, in dB of full scale: pauses do not count."""
    blocks = samples[: samples.size // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
    power = (blocks.astype(np.float64) ** 2).mean(axis=1)
    sounding = power[power > power.max() / 1000] if power.size else power
    return 10 * math.log10(sounding.mean()) if sounding.size else -math.inf


def _without_silence(samples: Samples) -> Samples:
    whole = samples.size // _BLOCK
    heights = np.abs(samples[: whole * _BLOCK].reshape(-1, _BLOCK)).max(axis=1, initial=0)
    sounding = np.flatnonzero(heights > _QUIET * heights.max(initial=0))
    if not sounding.size:
        return samples[:0]
    begin = max(int(sounding[0]) - _MARGIN, 0)
    end = int(sounding[-1]) + 1 + _MARGIN
    return samples[begin * _BLOCK : end * _BLOCK]
