from __future__ import annotations

import pytest

from services.languages import tag_of


@pytest.mark.parametrize(
    ("given", "tag"),
    [
        ("English", "en"),
        ("chinese", "zh"),
        (" German ", "de"),
        ("Haitian Creole", "ht"),
        ("en_US", "en-US"),
        ("en-us", "en-us"),
        ("zh", "zh"),
        ("auto", None),
        ("Auto", None),
        ("", None),
        (None, None),
        ("Klingonese", "Klingonese"),
    ],
)
def test_a_language_is_known_by_its_name_or_its_tag(given: str | None, tag: str | None) -> None:
    assert tag_of(given) == tag
