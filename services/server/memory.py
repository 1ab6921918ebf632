"""The memory that request bodies take together, and how freed memory leaves the process."""

from __future__ import annotations

import ctypes
import threading
from typing import Final

from services.errors import OverloadedError

_TRIMMED_BYTES: Final = 32 << 20


class Held:
    """The total size of all request bodies in a role, in bytes."""

    def __init__(self, limit_bytes: int, role: str = "") -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self._setting = f"BENTOVOX_{role.upper()}__BODY_MEMORY_MIB"
        self._most_bytes = 0

    def take(self, count: int) -> None:
        """Count bytes as held from now on.

        Raises:
            OverloadedError: all bodies together are over the limit; nothing was counted.
        """
        if self.bytes + count > self.limit_bytes:
            raise OverloadedError(
                f"Request bodies hold all of the {self.limit_bytes} bytes that they may take "
                f"together ({self._setting}). Please try again later.",
                retry_after_s=2,
            )
        self.bytes += count
        self._most_bytes = max(self._most_bytes, self.bytes)

    def give_back(self, count: int) -> None:
        """Count bytes as free again; after a large total, memory goes back to the system."""
        self.bytes -= count
        if not self.bytes and self._most_bytes >= _TRIMMED_BYTES:
            self._most_bytes = 0
            threading.Thread(target=trim, daemon=True).start()


def trim() -> None:
    """Make the C library return free pages, of which pieces of bodies leave its heap full.

    It runs without the GIL; musl has no such function.
    """
    if (trim_ := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim_(0)
