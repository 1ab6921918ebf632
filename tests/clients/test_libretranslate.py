"""LibreTranslate's Python bindings with the demo model: the shape of the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from libretranslatepy import LibreTranslateAPI

from services.conversation.translation.languages import NAMES

if TYPE_CHECKING:
    from tests.e2e.server import Server


@pytest.mark.works("LibreTranslate's bindings", "`translate`, `detect` and `languages`")
def test_libretranslates_client_gets_answers_of_its_shape(stack: Server) -> None:
    client = LibreTranslateAPI(stack.url)
    said = client.translate("Good morning!", "en", "de", timeout=60)
    assert isinstance(said, str)
    assert said
    assert said == client.translate("Good morning!", "en", "de", timeout=60)
    (found,) = client.detect("Guten Morgen!", timeout=60)
    assert found["language"] in NAMES
    assert 0 < found["confidence"] <= 100
    assert {one["code"] for one in client.languages(timeout=60)} == {*NAMES}
