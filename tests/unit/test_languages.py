from __future__ import annotations

import pytest

from services.languages import code_of, tag_of


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


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("English", "en"),
        ("en_US", "en"),
        ("pt-BR", "pt"),
        ("ZH", "zh"),
        ("haitian creole", "ht"),
        ("Mandarin", "zh"),
        ("nb-NO", "no"),
        ("xx", "xx"),
        ("auto", None),
        (" ", None),
    ],
)
def test_a_language_that_is_heard_has_no_region(given: str, code: str | None) -> None:
    assert code_of(given) == code


@pytest.mark.parametrize("given", ["?", "english please", "en--US", "e", "\u0435\u043d"])
def test_what_is_no_language_is_told_apart(given: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        code_of(given)
