"""Randomness that belongs to one request.

Upstream draws from torch's global generators, in the sampler and for the noise of flow and vocoder,
so simultaneous requests would change each other's audio. Here a request has a generator for its
tokens, and each call that draws noise has a seed of the request's.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


class Sampler:
    """Repetition-aware sampling (VALL-E 2), as upstream's `ras_sampling`, from one generator.

    Attributes:
        top_k: how many tokens are drawn from at first.
    """

    def __init__(self, lm: Any, seed: int) -> None:
        """Sample for `lm` with the parameters of its recipe."""
        chosen = getattr(lm.sampling, "keywords", {})
        self.top_k: int = chosen.get("top_k", 25)
        self._top_p: float = chosen.get("top_p", 0.8)
        self._window: int = chosen.get("win_size", 10)
        self._ratio: float = chosen.get("tau_r", 0.1)
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(
        self,
        best: torch.Tensor,
        ids: torch.Tensor,
        probabilities: torch.Tensor,
        decoded: list[int],
    ) -> int:
        """Return a token, drawn of the `top_k` `best` probabilities or else of all of them [V]."""
        best = best * (best.cumsum(0) - best < self._top_p)
        chosen = int(ids[best.multinomial(1, generator=self._generator)].item())
        if decoded[-self._window :].count(chosen) >= self._window * self._ratio:
            probabilities = probabilities.cpu().clone()
            probabilities[chosen] = 0.0
            chosen = int(probabilities.multinomial(1, generator=self._generator).item())
        return chosen


@contextmanager
def drawing_from(seed: int, device: torch.device) -> Iterator[None]:
    """Let torch's global generators, on the CPU and on `device`, draw from `seed` in the block.

    Only one thread may: the flow's in family 1, the vocoder's in family 2. No other one draws from
    them, as family 3 has its noise since it was loaded, and tokens have generators of their own.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
