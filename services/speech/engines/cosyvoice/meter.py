"""Says in the log how far a download is: a server's log is no terminal, so no bar."""

from __future__ import annotations

import logging
import time
from typing import Final

log = logging.getLogger("bentovox.speech")

_MB: Final = 1_000_000


class Meter:
    """Counts the bytes of one download and logs a line every few seconds."""

    def __init__(self, what: str, total_bytes: int, *, every_s: float = 5.0) -> None:
        """Start at nothing of `total_bytes`; 0 means that nobody knows."""
        self._what = what
        self._total = total_bytes
        self._every_s = every_s
        self._done = 0
        self._began = self._told = time.monotonic()

    def add(self, count: int) -> None:
        """Note that `count` more bytes are here; negative when some had to be thrown away."""
        self.at(self._done + count)

    def at(self, done: int) -> None:
        """Note that `done` bytes are here."""
        self._done = done
        now = time.monotonic()
        if now - self._told >= self._every_s:
            self._told = now
            log.info("%s", self)

    def __str__(self) -> str:
        elapsed_s = max(time.monotonic() - self._began, 1e-3)
        here = f"{self._done / _MB:.0f}"
        if self._total:
            here += f" of {self._total / _MB:.0f} MB ({100 * self._done // self._total} %)"
        else:
            here += " MB"
        return f"Downloading {self._what}: {here}, {self._done / _MB / elapsed_s:.1f} MB/s"
