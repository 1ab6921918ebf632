"""Which of the backends that serve the same takes a request, at a cost that hardly grows with them.

Affinity is rendezvous hashing: each pair of an affinity and a backend has a weight, and the
greatest wins. The weight is how closely a place of the backend follows a place of the affinity on a
circle, so that the greatest is found by bisection (multi-probe consistent hashing, arXiv
1505.00062).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from hashlib import blake2b
from struct import unpack
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.backends.backend import Backend

_PLACES: Final = 8
"""Of each affinity and each backend: backends then differ by a tenth in what prefers them."""

_CIRCLE: Final = 1 << 64


class Choice:
    """The ready backends that serve the same models."""

    def __init__(self) -> None:
        # By requests in flight; of those with as many, the one that has waited longest is first.
        self._levels: dict[int, dict[Backend, None]] = {}
        self._level_of: dict[Backend, int] = {}
        self._circle: list[tuple[int, str, Backend]] = []

    def join(self, backend: Backend) -> None:
        """Let it take requests."""
        self._put(backend)
        for place in places(backend.url):
            insort(self._circle, (place, backend.name, backend))

    def leave(self, backend: Backend) -> None:
        """Let it take no more."""
        self._take(backend)
        for place in places(backend.url):
            del self._circle[bisect_left(self._circle, (place, backend.name))]

    def count(self, backend: Backend) -> None:
        """Note how many requests it has in flight now."""
        if self._level_of[backend] != backend.outstanding:
            self._take(backend)
            self._put(backend)

    def _put(self, backend: Backend) -> None:
        self._levels.setdefault(backend.outstanding, {})[backend] = None
        self._level_of[backend] = backend.outstanding

    def _take(self, backend: Backend) -> None:
        number = self._level_of.pop(backend)
        level = self._levels[number]
        del level[backend]
        if not level:
            del self._levels[number]

    def __len__(self) -> int:
        return len(self._level_of)

    def least(self, besides: Backend | None) -> Backend | None:
        """Return the one with the fewest requests in flight; None if there is none."""
        for count in sorted(self._levels):
            for backend in self._levels[count]:
                if backend is not besides:
                    return backend
        return None

    def preferred(self, affinity: str) -> Iterator[tuple[int, str, Backend]]:
        """Yield the first for each place of an affinity, and how far behind that place it is."""
        for place in places(affinity):
            found, name, backend = self._circle[
                bisect_left(self._circle, (place,)) % len(self._circle)
            ]
            yield (found - place) % _CIRCLE, name, backend


def places(text: str) -> tuple[int, ...]:
    """Return its places on the circle."""
    digest = blake2b(text.encode(errors="replace"), digest_size=8 * _PLACES).digest()
    return unpack(f"<{_PLACES}Q", digest)
