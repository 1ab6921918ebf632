"""What can go wrong while upstream's code is brought here; each is one line for a person."""

from __future__ import annotations


class CodeError(Exception):
    """The code could not be had, or is not what is pinned; nothing of it was kept."""
