from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import pytest

from services.server.telemetry import configure_log as configure
from services.server.telemetry import request_id_var

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave the loggers as they were."""
    logger, access = logging.getLogger("bentovox"), logging.getLogger("bentovox.access")
    before = logger.handlers, logger.propagate, logger.level, access.level
    yield
    logger.handlers, logger.propagate = before[:2]
    logger.setLevel(before[2])
    access.setLevel(before[3])


def test_a_line_tells_time_level_role_request_and_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure("chat")
    token = request_id_var.set(b"req_7")
    logging.getLogger("bentovox.chat").warning("loaded %s", "m")
    request_id_var.reset(token)
    logging.getLogger("bentovox").info("idle")
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d{4}-\S+ WARNING \[chat\] \[req_7\] loaded m", first)
    assert second.endswith("[chat] [-] idle")


def test_levels_are_as_configured_and_access_lines_can_be_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure("chat", level="WARNING")
    logging.getLogger("bentovox").info("hidden")
    configure("chat", access=False)
    logging.getLogger("bentovox.access").info("hidden")
    logging.getLogger("bentovox").info("shown")
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["shown"]
