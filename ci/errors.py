"""What can go wrong while something is built."""

from __future__ import annotations


class CiError(Exception):
    """The verb cannot go on; its text is one line that names the fix. Exit code 1.

    Whatever is called in `ci` may raise it.
    """
