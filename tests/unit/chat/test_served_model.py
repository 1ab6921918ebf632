from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from huggingface_hub import constants

from services.chat.arguments import DEMO_DIRECTORY, DEMO_NAME, ServedModel, resolve
from services.errors import ConfigurationError
from services.settings.sections import ChatSettings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_the_demo_model_is_the_shipped_directory() -> None:
    assert resolve(ChatSettings()) == ServedModel(str(DEMO_DIRECTORY), DEMO_NAME)


def test_a_directory_goes_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "mine"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    assert resolve(ChatSettings(model=str(directory))) == ServedModel(str(directory), "mine")
    assert resolve(ChatSettings(model=f"{directory}/")).name == "mine"
    monkeypatch.chdir(directory)
    assert resolve(ChatSettings(model=".")).name == "mine"


def test_the_name_that_clients_ask_for_can_be_set(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for model in (str(tmp_path), DEMO_NAME, "Qwen/Qwen3-0.6B"):
        assert resolve(ChatSettings(model=model, served_model_name="gpt")).name == "gpt"


def test_a_hub_id_is_its_own_name() -> None:
    found = resolve(ChatSettings(model="Qwen/Qwen3-0.6B"))
    assert found == ServedModel("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B")


@pytest.mark.parametrize("model", ["/no/such/dir", "./none", "Qwen3", "a/b/c", "", "../x", "a b/c"])
def test_what_is_neither_is_refused_and_named(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="BENTOVOX_CHAT__MODEL=") as refused:
        resolve(ChatSettings(model=model))
    assert "\n" not in refused.value.message


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"has no config\.json"):
        resolve(ChatSettings(model=str(tmp_path)))


def test_offline_the_model_must_be_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    wanted = ChatSettings(model="Qwen/Qwen3-0.6B")
    with pytest.raises(ConfigurationError, match="HF_HUB_OFFLINE is set"):
        resolve(wanted)
    home = tmp_path / "models--Qwen--Qwen3-0.6B"
    (home / "snapshots" / "c0ffee").mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("c0ffee")
    assert resolve(wanted).name == "Qwen/Qwen3-0.6B"
