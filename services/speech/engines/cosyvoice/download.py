"""A model directory: the one that is named, or one from the hub, in a cache outside the image.

`python -m services.speech.engines.cosyvoice.download MODEL` downloads it ahead of time and prints
where it is: while an image or a volume is made, or for a machine without a network.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.errors import ConfigurationError
from services.hub import HubDiskError, HubError, HubModel, HubRefusalError, is_hub_id
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

_COMMON: Final = ("llm.pt", "flow.pt", "hift.pt", "campplus.onnx")
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
"""What inference reads, by family, beside the YAML and `spk2info.pt`, the presets if any."""

# A repository also contains exports and a second language model, some GB that are not read here.
_WANTED: Final = (
    *FAMILIES,
    *_COMMON,
    "speech_tokenizer_v[123].onnx",
    "spk2info.pt",
    "CosyVoice-BlankEN/*",
    "LICENSE*",
)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_POINTER: Final = b"version https://git-lfs"
_SELF: Final = "services.speech.engines.cosyvoice.download"


def locate(
    model: str,
    *,
    revision: str = "",
    cache: Path | None = None,
    also: Sequence[str] = (),
) -> Path:
    """Return a local directory with what inference needs of `model`; may take minutes.

    Args:
        model: a directory, used as it is, or a hub's id such as `FunAudioLLM/CosyVoice2-0.5B`.
        revision: commit, tag or branch; empty: the pinned commit, or the main branch of what is
            not pinned. The log says which commit was taken.
        cache: folder to download into; None: that of the hub's own tools (HF_HOME, ~/.cache).
        also: further files, such as `flow.decoder.estimator.fp32.onnx` for TensorRT.

    Raises:
        ConfigurationError: a file is missing, there is no such model, it cannot be downloaded, or
            it is not in the cache and HF_HUB_OFFLINE is set; the message says what to do.
    """
    if (directory := named(model, also)) is not None:
        return directory
    revision = revision or REVISIONS.get(model, "main")
    source = HubModel(model, (*_WANTED, *also), revision, cache)
    found = source.cached()
    if found and not _is_whole(found, also):
        found = None
    is_commit = _COMMIT.fullmatch(revision) is not None  # never changes: no need to ask
    if found and (source.is_offline or is_commit):
        return found
    if source.is_offline:
        raise ConfigurationError(
            f"{model!r} at revision {revision} is not whole in {source.cache}, and downloads are "
            f"off (HF_HUB_OFFLINE). With a network: `python -m {_SELF} {model} --revision "
            f"{revision} --cache {source.cache}`",
            param="model",
        )
    try:
        found = source.download()
    except (HubRefusalError, HubDiskError) as error:
        raise ConfigurationError(str(error), param="model") from error
    except HubError as error:
        if found is None:
            raise ConfigurationError(
                f"{model!r} could not be downloaded: {error}; complete files are kept, and the "
                "next start continues",
                param="model",
            ) from error
        log.warning("%s; taking what was downloaded before", error)
    check(found, also)
    log.info("%s is in %s", model, found)
    return found


def named(model: str, also: Sequence[str] = ()) -> Path | None:
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


def _is_whole(directory: Path, also: Sequence[str]) -> bool:
    try:
        check(directory, also)
    except ConfigurationError:
        return False
    return True


def check(directory: Path, also: Sequence[str] = ()) -> int:
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


def main(arguments: list[str] | None = None) -> int:
    """Download a model and print its directory; 1 with one line if it cannot be had."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model", help="a hub's id, or a directory to check")
    options.add_argument("--revision", default="", help="commit, tag or branch")
    options.add_argument("--cache", type=Path, help="folder to download into")
    options.add_argument("--also", nargs="*", default=(), help="further files, by name")
    given = options.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        found = locate(**vars(given))
    except ConfigurationError as error:
        print(f"bentovox: {error.message}", file=sys.stderr)  # noqa: T201
        return 1
    print(found)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
