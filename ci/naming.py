"""What images are called."""

from __future__ import annotations

from typing import Final

PROJECT: Final = "bentovox"


def repository(name: str, registry: str = "") -> str:
    """Return the repository of a bento's image: `bentovox/chat`, below the registry if any.

    An owner's name may have capitals, a repository may not.
    """
    own = f"{PROJECT}/{name}"
    return f"{registry.rstrip('/').lower()}/{own}" if registry else own


def base_repository(stage: str, registry: str = "") -> str:
    """Return the repository of a shared base: `bentovox/base-vllm`."""
    return repository(f"base-{stage}", registry)


def cache(repository: str, platform: str) -> str:
    """Return the reference of the build cache of an image or a base, one for each platform."""
    return f"{repository}:cache-{platform}"


def untagged(reference: str) -> str:
    """Return the repository of a reference: without its tag and its digest."""
    folder, slash, last = reference.partition("@")[0].rpartition("/")
    return f"{folder}{slash}{last.partition(':')[0]}"
