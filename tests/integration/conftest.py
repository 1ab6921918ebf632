"""vLLM-Omni's stand-in, started once per module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.vllm_omni import StandIn, server_elsewhere

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server_elsewhere(tmp_path_factory.mktemp("omni")) as url:
        yield url


@pytest.fixture
def server(elsewhere: str) -> StandIn:
    server = StandIn(elsewhere)
    server.switch(reset=True)
    return server
