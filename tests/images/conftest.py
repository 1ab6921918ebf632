"""Options, and a longer timeout: the first test of a session builds the images."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci import specs

HERE = Path(__file__).parent
_TIMEOUT_S = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what `nox -s test-image` takes: one image, whoever built it."""
    parser.addoption("--bento", choices=specs.names(), help="ask this bento's image, as it is")
    parser.addoption("--platform", help="default: the bentofile's own")
    parser.addoption("--image", help="default: bentovox/NAME:PLATFORM")
    parser.addoption(
        "--model", type=Path, help="a CTranslate2 model for transcription (default: it fetches one)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a model that cannot be mounted, before an engine is asked for anything."""
    model = config.getoption("--model", None)
    if model and config.getoption("--bento") != "transcription":
        raise pytest.UsageError("--model is for --bento transcription")
    if model and not model.is_dir():
        raise pytest.UsageError(f"--model {model}: is no folder")
