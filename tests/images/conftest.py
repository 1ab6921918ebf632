"""A longer timeout for image tests: the first one of a session builds the images."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
_TIMEOUT_S = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))
