"""Progress for a person: one line that changes on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from typing import TextIO

_MB: Final = 1_000_000
_EVERY_S: Final = 5.0
_EVERY_ON_TERMINAL_S: Final = 0.1


def say(line: str) -> None:
    """Tell the person at the terminal, at once; standard output is for results."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class Progress:
    """How much of one download has come; used with `with`, which closes the line."""

    def __init__(self, what: str, total: int | None = None, stream: TextIO | None = None) -> None:
        """Start at nothing; `total` is in bytes, None when nobody says."""
        self._what = what
        self._total = total
        self._done = 0
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._began = self._told = time.monotonic()

    def __enter__(self) -> Self:
        """Say what comes."""
        if not self._is_terminal:
            self._write(f"{self._what}: {_megabytes(self._total)}\n")
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the line as it is and begin a new one."""
        self._write(f"\r{self._line()}\n" if self._is_terminal else f"{self._line()}\n")

    def at(self, done: int) -> None:
        """Note that `done` bytes are here, and say so when it is time."""
        self._done = max(self._done, done)
        now = time.monotonic()
        if now - self._told >= (_EVERY_ON_TERMINAL_S if self._is_terminal else _EVERY_S):
            self._told = now
            self._write(f"\r{self._line()}" if self._is_terminal else f"{self._line()}\n")

    def _line(self) -> str:
        elapsed_s = time.monotonic() - self._began
        return (
            f"{self._what}: {self._done / _MB:.1f} of {_megabytes(self._total)}, {elapsed_s:.0f} s"
        )

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _megabytes(count: int | None) -> str:
    return "an unknown number of MB" if count is None else f"{count / _MB:.1f} MB"
