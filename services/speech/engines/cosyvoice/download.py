"""A model directory: the one that is named, or one from the hub, in a cache outside the image."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.errors import ConfigurationError
from services.hub import HubModel, is_hub_id
from services.loading import NoModelError, fetched
from services.speech.engines.cosyvoice.recipe import FAMILIES, recipe_in

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger("bentovox.speech")

REVISIONS: Final = {
    "FunAudioLLM/Fun-CosyVoice3-0.5B-2512": "29e01c4e8d000f4bcd70751be16fa94bf3d85a18",
    "FunAudioLLM/CosyVoice2-0.5B": "eec1ae6c79877dbd9379285cf8789c9e0879293d",
    "FunAudioLLM/CosyVoice-300M": "f3ba236933d576582badded489545704c9b54799",
    "FunAudioLLM/CosyVoice-300M-SFT": "fbb71de2afe387ed854eebd80b9f3d078c6b9869",
    "FunAudioLLM/CosyVoice-300M-Instruct": "706bee1915e9fd1f1214929e2a0509c874cff433",
}
"""The commits on Hugging Face that are taken unless a revision is named."""

LLM: Final = "llm.pt"
"""The language model's weights, unless others are chosen."""

_COMMON: Final = ("flow.pt", "hift.pt", "campplus.onnx")
_QWEN: Final = (
    "CosyVoice-BlankEN/config.json",
    "CosyVoice-BlankEN/merges.txt",
    "CosyVoice-BlankEN/model.safetensors",
    "CosyVoice-BlankEN/tokenizer_config.json",
    "CosyVoice-BlankEN/vocab.json",
)
NEEDED: Final = {
    1: (*_COMMON, "speech_tokenizer_v1.onnx"),
    2: (*_COMMON, "speech_tokenizer_v2.onnx", *_QWEN),
    3: (*_COMMON, "speech_tokenizer_v3.onnx", *_QWEN),
}
"""What inference reads, by family, beside `LLM`, the YAML and `spk2info.pt`, the presets if any."""

# A repository also contains exports and a second language model, some GB that are not read here.
_WANTED: Final = (
    *FAMILIES,
    *_COMMON,
    "speech_tokenizer_v[123].onnx",
    "spk2info.pt",
    "CosyVoice-BlankEN/*",
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
        raise ConfigurationError(str(error), param="model") from error
    check(found, also)
    log.info("%s is in %s", model, found)
    return found


def named(model: str, also: Sequence[str] = (LLM,)) -> Path | None:
    """Return the directory that `model` names, or None if it is a hub's id; needs no network.

    Raises:
        ConfigurationError: the directory lacks a file, or it is neither.
    """
    directory = Path(model).expanduser()
    if directory.is_dir():
        check(directory, also)
        return directory
    if not is_hub_id(model):
        raise ConfigurationError(
            f"model {model!r} is neither a directory that exists nor a hub's id such as "
            f"{next(iter(REVISIONS))}",
            param="model",
        )
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
            f"{directory} lacks {', '.join(missing)}, which family {family} needs", param="model"
        )
    if pointers := [name for name in names if _is_pointer(directory / name)]:
        raise ConfigurationError(
            f"{directory}: {', '.join(pointers)} is only Git LFS's pointer to the file; run "
            "`git lfs pull` there",
            param="model",
        )
    return family


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER
