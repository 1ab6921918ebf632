"""Loading a Whisper."""

from __future__ import annotations

import ctypes
import logging
import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from services.loading import Loading, NoModelError, line
from services.transcription.engines.detector import SileroDetector
from services.transcription.engines.faster_whisper.checkpoint import Checkpoint

if TYPE_CHECKING:
    from services.transcription.engines.faster_whisper.model_source import ModelSource

log = logging.getLogger("bentovox.transcription")

_CUDA_LIBRARIES: Final = ("libcublasLt.so.12", "libcublas.so.12")


class Loader(Loading[Checkpoint]):
    """Loads one Whisper."""

    def __init__(
        self, source: ModelSource, *, device: str, compute_type: str, threads: int
    ) -> None:
        super().__init__(log)
        self._source = source
        self._device = device
        self._compute_type = compute_type
        self._threads = threads

    def _load(self) -> Checkpoint:
        began = time.monotonic()
        if not self.settled:
            self._tell(f"looking for {self._source.names[0]}")
        # OpenMP's waiting threads spin, by default for so long that they take each other's cores as
        # soon as the machine has other work. CTranslate2's copy reads this when it is loaded.
        if "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault("GOMP_SPINCOUNT", "1000")
        SileroDetector()  # live speech needs its model at once
        folder = self._source.find(self._tell)
        device = self._usable_device()
        self._tell(f"loading {self._source.names[0]}")
        try:
            model = Checkpoint(
                folder, device=device, compute_type=self._compute_type, threads=self._threads
            )
        except Exception as error:
            raise NoModelError(
                f"no model: {folder} cannot be loaded as a CTranslate2 Whisper: {line(error)}"
            ) from error
        _warm_up(model)
        log.info(
            "loaded %s on %s in %.1f s",
            self._source.names[0],
            model.device,
            time.monotonic() - began,
        )
        return model

    def _usable_device(self) -> str:
        """Return the device to load the model on; "auto" becomes the CPU if cuBLAS is missing.

        Raises:
            NoModelError: the device is to be a GPU and cannot be.
        """
        if self._device == "cpu":
            return "cpu"
        import ctranslate2  # noqa: PLC0415  heavy

        if not ctranslate2.get_cuda_device_count():
            if self._device == "cuda":
                raise NoModelError("no model: device is cuda, and CTranslate2 finds no NVIDIA GPU")
            return "cpu"
        missing = [name for name in _CUDA_LIBRARIES if not _load_cublas(name)]
        if not missing:
            return self._device
        lacks = f"{', '.join(missing)} (nvidia-cublas-cu12) cannot be found"
        if self._device == "cuda":
            raise NoModelError(f"no model: device is cuda and {lacks}")
        log.warning("%s: Whisper computes on the CPU", lacks)
        return "cpu"


def _load_cublas(name: str) -> bool:
    """Load one of cuBLAS's libraries, and return whether it could be.

    CTranslate2 looks for it by name when it first computes. No linker finds it where pip installs
    it (the extra `faster-whisper-cuda`), but once it is loaded by its path, its name is known:
    https://github.com/SYSTRAN/faster-whisper#gpu. CTranslate2 4.8 needs no cuDNN, which earlier
    ones did (docs/decisions/0025).
    """
    spec = find_spec("nvidia.cublas") if find_spec("nvidia") else None
    folders = (spec.submodule_search_locations if spec else None) or ()
    for path in (name, *(str(Path(folder, "lib", name)) for folder in folders)):
        try:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return True
    return False


def _warm_up(model: Checkpoint) -> None:
    """Decode a second of silence, so that a model that cannot work shows at once."""
    encoded = model.encode([model.features(np.zeros(16_000, dtype=np.float32))])
    language = max(model.language_chances(encoded)[0])
    model.generate(
        encoded,
        [model.prompt((), language, "transcribe", times=False)],
        temperature=0.0,
        beam_size=1,
    )
