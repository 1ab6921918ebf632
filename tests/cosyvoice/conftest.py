"""Tiny model directories, each built once."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests.cosyvoice import tiny

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return `tiny_model(family, kind)`: a directory that tests read and never write to."""
    root = tmp_path_factory.mktemp("models")

    @cache
    def built(family: tiny.Family, kind: tiny.Kind = "base") -> Path:
        return tiny.build(family, root, kind=kind)

    return built
