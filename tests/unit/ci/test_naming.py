"""The names of images."""

from __future__ import annotations

import pytest

from ci import naming


@pytest.mark.parametrize(
    ("registry", "expected"),
    [
        ("", "bentovox/chat"),
        ("ghcr.io/me", "ghcr.io/me/bentovox/chat"),
        ("ghcr.io/Me/", "ghcr.io/me/bentovox/chat"),
        ("localhost:5000", "localhost:5000/bentovox/chat"),
    ],
)
def test_a_bentos_repository_is_below_its_registry_in_lower_case(
    registry: str, expected: str
) -> None:
    assert naming.repository("chat", registry) == expected


def test_a_bases_repository_says_its_stage() -> None:
    assert naming.base_repository("vllm", "ghcr.io/me") == "ghcr.io/me/bentovox/base-vllm"


def test_each_platform_has_a_cache_of_its_own() -> None:
    repository = naming.repository("chat", "ghcr.io/me")
    assert naming.cache(repository, "cpu") == "ghcr.io/me/bentovox/chat:cache-cpu"
    assert naming.cache(repository, "cpu") != naming.cache(repository, "cuda13")
