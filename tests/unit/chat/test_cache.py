"""vLLM's cache for quicker starts is in a volume, if there is one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from services.chat.arguments import settle_cache

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_cache_that_can_be_written_is_kept_and_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "models" / "vllm"
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(cache))
    settle_cache()
    assert os.environ["VLLM_CACHE_ROOT"] == str(cache)
    assert list(cache.iterdir()) == []


def test_one_that_cannot_is_vllms_own_again_and_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    cache = tmp_path / "file" / "vllm"
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(cache))
    with caplog.at_level("INFO"):
        settle_cache()
    assert "VLLM_CACHE_ROOT" not in os.environ
    (line,) = caplog.messages
    assert line == f"no cache for a quicker next start: {cache}: Not a directory"


def test_without_a_cache_nothing_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CACHE_ROOT", raising=False)
    settle_cache()
    assert "VLLM_CACHE_ROOT" not in os.environ
