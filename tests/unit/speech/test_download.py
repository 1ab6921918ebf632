"""Which directories are CosyVoice models; downloads are in tests/cosyvoice/test_download.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.errors import ConfigurationError
from services.speech.engines.cosyvoice.download import (
    FAMILIES,
    LLM,
    NEEDED,
    REVISIONS,
    check,
    locate,
)

if TYPE_CHECKING:
    from pathlib import Path


def directory(path: Path, family: int) -> Path:
    yaml = {family: name for name, family in FAMILIES.items()}[family]
    for name in (yaml, LLM, *NEEDED[family]):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("something")
    return path


@pytest.mark.parametrize("family", [2, 3])
def test_a_directory_is_used_as_it_is(tmp_path: Path, family: int) -> None:
    assert locate(str(directory(tmp_path, family))) == tmp_path
    assert check(tmp_path) == family


@pytest.mark.parametrize("family", [2, 3])
def test_a_directory_that_lacks_a_file_names_it(tmp_path: Path, family: int) -> None:
    directory(tmp_path, family)
    for name in (LLM, *NEEDED[family]):
        (tmp_path / name).rename(tmp_path / "aside")
        with pytest.raises(ConfigurationError, match=f"lacks {name}, which family {family} needs"):
            locate(str(tmp_path))
        (tmp_path / "aside").rename(tmp_path / name)


def test_what_is_asked_for_besides_must_be_there_too(tmp_path: Path) -> None:
    directory(tmp_path, 2)
    with pytest.raises(ConfigurationError, match=r"lacks flow\.decoder\.estimator\.fp32\.onnx"):
        locate(str(tmp_path), also=["flow.decoder.estimator.fp32.onnx"])


def test_another_language_model_takes_the_place_of_the_usual_one(tmp_path: Path) -> None:
    (directory(tmp_path, 3) / LLM).rename(tmp_path / "llm.rl.pt")
    assert locate(str(tmp_path), also=["llm.rl.pt"]) == tmp_path
    with pytest.raises(ConfigurationError, match=r"lacks llm\.pt"):
        locate(str(tmp_path))


def test_a_directory_without_a_yaml_is_told_which_it_could_have(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        locate(str(tmp_path))
    assert all(name in caught.value.message for name in FAMILIES)


@pytest.mark.parametrize("model", ["", "FunAudioLLM/CosyVoice-300M", "iic/CosyVoice-300M-SFT"])
def test_family_1_is_refused_and_the_message_names_what_is_served(
    tmp_path: Path, model: str
) -> None:
    (tmp_path / "cosyvoice.yaml").write_text("sample_rate: 22050")
    with pytest.raises(ConfigurationError, match=r"CosyVoice2-0\.5B.*Fun-CosyVoice3"):
        locate(model or str(tmp_path))


def test_a_clone_without_lfs_says_how_to_finish_it(tmp_path: Path) -> None:
    directory(tmp_path, 2)
    (tmp_path / "llm.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:…")
    with pytest.raises(
        ConfigurationError, match=r"llm\.pt is only Git LFS's pointer.*git lfs pull"
    ):
        locate(str(tmp_path))


@pytest.mark.parametrize(
    "model", ["/no/such/place", "./model", "CosyVoice2-0.5B", "a/b/c", "", "a b/c"]
)
def test_what_is_neither_directory_nor_id_is_told(model: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="neither a directory that exists nor a hub's id"):
        locate(model or str(tmp_path / "gone"))


def test_every_pinned_revision_is_a_commit() -> None:
    assert all(len(commit) == 40 and int(commit, 16) for commit in REVISIONS.values())
