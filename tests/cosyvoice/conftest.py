"""Tiny model directories, each built once."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest

from services.speech.engines.cosyvoice import code
from tests.cosyvoice import tiny

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return `tiny_model(family, kind)`: a directory that tests read and never write to.

    It skips the test where upstream's code is a copy without that family.
    """
    root = tmp_path_factory.mktemp("models")
    source = code.load()

    @cache
    def build(family: tiny.Family, kind: tiny.Kind = "base") -> Path:
        return tiny.build(family, root, kind=kind)

    def built(family: tiny.Family, kind: tiny.Kind = "base") -> Path:
        if family not in source.families:
            pytest.skip(f"CosyVoice's code in {source.root} has no family {family}")
        return build(family, kind)

    return built
