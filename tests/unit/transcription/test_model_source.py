"""What a model's name may be, and the errors without a model."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import huggingface_hub
import pytest
from huggingface_hub import constants

from services.errors import ConfigurationError
from services.loading import NoModelError
from services.transcription.engines.faster_whisper.loader import _SIZES, Loader
from tests.fakes.hub import Hub, hub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["hub"]  # a fixture


def nobody(_: str) -> None:
    """Listen to no progress."""


def model_in(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("model.bin", "config.json", "tokenizer.json", "vocabulary.json"):
        (folder / name).write_text("{}")
    return folder


def cached_model(cache: Path, repository: str, commit: str = "c0ffee") -> Path:
    home = cache / f"models--{repository.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    return model_in(home / "snapshots" / commit)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub that hangs up on everybody."""

    class HangUp(BaseHTTPRequestHandler):
        def handle(self) -> None:
            self.connection.close()

    server = ThreadingHTTPServer(("127.0.0.1", 0), HangUp)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setenv("UV_DEFAULT_INDEX", url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    real = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: real(endpoint=url))
    yield url
    server.shutdown()
    server.server_close()
    thread.join()


def test_sizes_are_those_of_faster_whisper() -> None:
    from faster_whisper.utils import _MODELS  # noqa: PLC0415

    assert _SIZES == _MODELS


def test_a_size_goes_by_both_its_names() -> None:
    assert Loader("tiny").names == ("tiny", "Systran/faster-whisper-tiny")


def test_an_id_and_a_directory_are_taken(tmp_path: Path) -> None:
    assert Loader("someone/whisper-ct2").repository == "someone/whisper-ct2"
    folder = model_in(tmp_path / "mine")
    source = Loader(str(folder))
    assert source.names == ("mine",)
    assert source.find(nobody) == folder


def test_another_name_is_refused_with_what_would_be_taken() -> None:
    with pytest.raises(ConfigurationError, match=r"'huge' is neither .* tiny"):
        Loader("huge")


@pytest.mark.parametrize(
    "missing", ["model.bin", "config.json", "tokenizer.json", "vocabulary.json"]
)
def test_a_directory_that_is_no_model_is_told_apart(tmp_path: Path, missing: str) -> None:
    (model_in(tmp_path) / missing).unlink()
    with pytest.raises(NoModelError, match=rf"is not a CTranslate2 Whisper: it lacks {missing}"):
        Loader(str(tmp_path)).find(nobody)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoModelError, match="gone is not a directory"):
        Loader(str(tmp_path / "gone")).find(nobody)


def test_weights_of_pytorch_come_with_the_command_that_converts_them(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(NoModelError, match="ct2-transformers-converter --model"):
        Loader(str(tmp_path)).find(nobody)


@pytest.mark.usefixtures("offline")
def test_a_whole_cache_is_enough_offline(tmp_path: Path) -> None:
    folder = cached_model(tmp_path, "Systran/faster-whisper-tiny")
    assert Loader("tiny", cache=tmp_path).find(nobody) == folder


@pytest.mark.usefixtures("no_hub")
def test_a_whole_cache_asks_nobody(tmp_path: Path) -> None:
    folder = cached_model(tmp_path, "Systran/faster-whisper-tiny")
    assert Loader("tiny", cache=tmp_path).find(nobody) == folder


@pytest.mark.usefixtures("offline")
def test_offline_without_a_model_it_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(NoModelError) as told:
        Loader("tiny", cache=tmp_path).find(nobody)
    assert "HF_HUB_OFFLINE" in str(told.value)
    assert f"`hf download Systran/faster-whisper-tiny --cache-dir {tmp_path}`" in str(told.value)
    assert "\n" not in str(told.value)


def test_an_unreachable_hub_is_named_with_the_remedy(tmp_path: Path, no_hub: str) -> None:
    folder = cached_model(tmp_path, "Systran/faster-whisper-tiny")
    (folder / "model.bin").unlink()  # half a download is no model
    with pytest.raises(NoModelError) as told:
        Loader("tiny", cache=tmp_path).find(nobody)
    assert f"{no_hub.removeprefix('http://')} cannot be reached" in str(told.value)
    assert "hf download Systran/faster-whisper-tiny" in str(told.value)
    assert "BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL" in str(told.value)


def test_a_download_says_how_far_it_is_and_takes_what_is_needed(tmp_path: Path, hub: Hub) -> None:
    told = []

    def tell(status: str) -> None:
        told.append(status)
        if " 0 %" not in status:
            hub.told.set()

    found = Loader("tiny", cache=tmp_path).find(tell)
    assert found.name == hub.commit
    assert (found / "model.bin").stat().st_size == 24_000_000
    assert not (found / "README.md").exists()
    assert any(
        re.fullmatch(r"downloading Systran/faster-whisper-tiny \d\d? %", one) for one in told
    )
    count = len(hub.asked)
    assert Loader("tiny", cache=tmp_path).find(nobody) == found
    assert len(hub.asked) == count, "what is whole is not asked for again"


def test_a_model_that_the_hub_lacks_is_told(tmp_path: Path, hub: Hub) -> None:
    del hub.files["model.bin"]
    with pytest.raises(NoModelError, match=r"is not a CTranslate2 Whisper: it lacks model\.bin"):
        Loader("someone/other", cache=tmp_path).find(nobody)
