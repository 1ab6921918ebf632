"""Byte counts as a person reads them, in binary units: budgets are in MiB, layers end at 2 GiB."""

from __future__ import annotations

from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30


def shown(count: int) -> str:
    """Return a number of bytes with its unit: `512 B`, `1.5 KiB`, `820.4 MiB`, `3.61 GiB`."""
    if count >= GIB:
        return f"{count / GIB:.2f} GiB"
    if count >= MIB:
        return f"{count / MIB:.1f} MiB"
    return f"{count / KIB:.1f} KiB" if count >= KIB else f"{count} B"
