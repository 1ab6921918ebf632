"""What a hub of models is to `download`: a place in a cache, and a way to fill it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class HubError(Exception):
    """The hub cannot be reached, or failed; it may work at another time."""


class Hub(Protocol):
    """One model on a hub.

    Attributes:
        branch: the revision that stands for the newest.
        cache: the folder that its models are kept in.
        is_offline: the hub's own tools were told never to ask the network.
    """

    @property
    def branch(self) -> str: ...  # noqa: D102
    @property
    def cache(self) -> Path: ...  # noqa: D102
    @property
    def is_offline(self) -> bool: ...  # noqa: D102

    def cached(self, revision: str, wanted: Sequence[str]) -> Path | None:
        """Return the folder that a revision was downloaded to, None if it is not whole."""

    def download(self, revision: str, wanted: Sequence[str]) -> Path:
        """Return the folder of a revision's files that match `wanted`, getting what is missing.

        Raises:
            ConfigurationError: there is no such model or revision, what came is not what was
                listed, or the disk is full.
            HubError: it cannot be reached.
        """
