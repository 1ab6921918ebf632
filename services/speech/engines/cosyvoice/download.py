"""A model directory: the one that is named, or one from the hub, in a cache outside the image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from services.errors import ConfigurationError
from services.hub import HubModel, is_hub_id
from services.loading import NoModelError, fetched

log = logging.getLogger("bentovox.speech")

FAMILIES: Final = {"cosyvoice2.yaml": 2, "cosyvoice3.yaml": 3}
"""The name of the YAML tells the family."""

FAMILY_1: Final = "cosyvoice.yaml"
"""The YAML of CosyVoice-300M and its like, which are not served."""

REVISIONS: Final = {
    "FunAudioLLM/Fun-CosyVoice3-0.5B-2512": "29e01c4e8d000f4bcd70751be16fa94bf3d85a18",
    "FunAudioLLM/CosyVoice2-0.5B": "eec1ae6c79877dbd9379285cf8789c9e0879293d",
}
"""The commits on Hugging Face that are taken unless a revision is named."""

LLM: Final = "llm.pt"
"""The language model's weights, unless others are chosen."""

_COMMON: Final = (
    "flow.pt",
    "hift.pt",
    "campplus.onnx",
    "CosyVoice-BlankEN/config.json",
    "CosyVoice-BlankEN/merges.txt",
    "CosyVoice-BlankEN/model.safetensors",
    "CosyVoice-BlankEN/tokenizer_config.json",
    "CosyVoice-BlankEN/vocab.json",
)
NEEDED: Final = {family: (*_COMMON, f"speech_tokenizer_v{family}.onnx") for family in (2, 3)}
"""What inference reads, by family, beside `LLM` and the YAML."""

# A repository also contains exports and a second language model, some GB that are not read here.
_WANTED: Final = (
    *FAMILIES,
    FAMILY_1,  # to tell that it is one
    *_COMMON,
    "speech_tokenizer_v[23].onnx",
    "LICENSE*",
)
_POINTER: Final = b"version https://git-lfs"
_SETTING: Final = "BENTOVOX_SPEECH__COSYVOICE__MODEL"


def locate(
    model: str,
    *,
    revision: str = "",
    cache: Path | None = None,
    also: Sequence[str] = (LLM,),
) -> Path:
    """Return a local directory with what inference needs of `model`; may take minutes.

    Args:
        model: a directory, used as it is, or a hub's id such as `FunAudioLLM/CosyVoice2-0.5B`.
        revision: commit, tag or branch; empty: the pinned commit, or the main branch of what is
            not pinned. The log says which commit was taken.
        cache: folder to download into; None: that of the hub's own tools (HF_HOME, ~/.cache).
        also: the files beside `NEEDED`, such as `flow.decoder.estimator.fp32.onnx` for TensorRT.

    Raises:
        ConfigurationError: a file is missing, there is no such model, it cannot be downloaded, or
            it is not in the cache and HF_HUB_OFFLINE is set; the message says what to do.
    """
    if (directory := named(model, also)) is not None:
        return directory

    def is_whole(directory: Path) -> bool:
        try:
            check(directory, also)
        except ConfigurationError:
            return False
        return True

    hub = HubModel(model, (*_WANTED, *also), revision or REVISIONS.get(model, "main"), cache)
    try:
        found = fetched(hub, is_whole, None, lambda _: None, _SETTING)
    except NoModelError as error:
        raise ConfigurationError(str(error)) from error
    check(found, also)
    log.info("%s is in %s", model, found)
    return found


def named(model: str, also: Sequence[str] = (LLM,)) -> Path | None:
    """Return the directory that `model` names, or None if it is a hub's id; needs no network.

    Raises:
        ConfigurationError: the directory lacks a file, it is of family 1, or neither.
    """
    directory = Path(model).expanduser()
    if directory.is_dir():
        check(directory, also)
        return directory
    if not is_hub_id(model):
        raise ConfigurationError(
            f"model {model!r} is neither a directory that exists nor a hub's id such as "
            f"{next(iter(REVISIONS))}"
        )
    if directory.name.startswith("CosyVoice-300M"):
        raise of_family_1(model)
    return None


def check(directory: Path, also: Sequence[str] = (LLM,)) -> int:
    """Return the family of a model directory with every file that inference needs.

    Raises:
        ConfigurationError: it is no model directory, or lacks a file; the message names it.
    """
    family = FAMILIES[recipe_in(directory).name]
    names = (*NEEDED[family], *also)
    if missing := [name for name in names if not (directory / name).is_file()]:
        raise ConfigurationError(
            f"{directory} lacks {', '.join(missing)}, which family {family} needs"
        )
    if pointers := [name for name in names if _is_pointer(directory / name)]:
        raise ConfigurationError(
            f"{directory}: {', '.join(pointers)} is only Git LFS's pointer to the file; run "
            "`git lfs pull` there"
        )
    return family


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def recipe_in(directory: Path) -> Path:
    """Return the YAML file of a model directory.

    Raises:
        ConfigurationError: it has none, or is of family 1.
    """
    for name in FAMILIES:
        if (directory / name).is_file():
            return directory / name
    if (directory / FAMILY_1).is_file():
        raise of_family_1(str(directory))
    raise ConfigurationError(
        f"{directory} is no CosyVoice model: it has none of {', '.join(FAMILIES)}"
    )


def of_family_1(model: str) -> ConfigurationError:
    """Return the error that says what is served in the place of such a model."""
    return ConfigurationError(
        f"{model} is of family 1, which is not served any more: family 2 "
        "(FunAudioLLM/CosyVoice2-0.5B) and family 3 (FunAudioLLM/Fun-CosyVoice3-0.5B-2512) are"
    )
