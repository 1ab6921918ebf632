"""Randomness that belongs to one request.

Upstream draws from torch's global generator, in the sampler and for the noise of flow and vocoder,
so simultaneous requests would change each other's audio. Here each request has its own generator:
the sampler is given it, and the few noise calls in upstream's modules find it by thread.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_HERE: Final = threading.local()
_DRAWS: Final = ("rand", "randn", "rand_like", "randn_like")


class Sampler:
    """Repetition-aware sampling (VALL-E 2), as upstream's `ras_sampling`, from one generator.

    Attributes:
        top_k: how many tokens are drawn from at first.
    """

    def __init__(self, lm: Any, generator: torch.Generator) -> None:
        """Sample for `lm` with the parameters of its recipe; `generator` is the CPU's."""
        chosen = getattr(lm.sampling, "keywords", {})
        self.top_k: int = chosen.get("top_k", 25)
        self._top_p: float = chosen.get("top_p", 0.8)
        self._window: int = chosen.get("win_size", 10)
        self._ratio: float = chosen.get("tau_r", 0.1)
        self._generator = generator

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


class Noise:
    """Draws of which a prefix in time equals the prefix of the whole.

    `torch.randn` gives other numbers for another length, so the whole is drawn, then cut.
    """

    def __init__(self, seed: int, steps: int, device: torch.device) -> None:
        """Draw from `seed` for up to `steps` of time, the second of three dimensions."""
        self._generator = torch.Generator(device)
        self._generator.manual_seed(seed)
        self._steps = steps

    def draw(self, name: str, size: tuple[int, ...], options: dict[str, Any]) -> torch.Tensor:
        """Return `torch.<name>(*size, **options)`."""
        in_time = len(size) == 3  # noqa: PLR2004  [1, steps, channels]
        whole = (size[0], self._steps, size[2]) if in_time else size
        drawn: torch.Tensor = getattr(torch, name)(*whole, generator=self._generator, **options)
        return drawn[:, : size[1]] if in_time else drawn


@contextmanager
def drawing_from(source: torch.Generator | Noise) -> Iterator[None]:
    """Let upstream's modules draw from `source` in this thread, within the block."""
    outer = getattr(_HERE, "source", None)
    _HERE.source = source
    try:
        yield
    finally:
        _HERE.source = outer


class _SeededTorch:
    """Replaces `torch` in a module of upstream: it draws from this thread's generator."""

    def __getattr__(self, name: str) -> Any:
        source = getattr(_HERE, "source", None)
        if source is None or name not in _DRAWS:
            return getattr(torch, name)

        def draw(*size: Any, **options: Any) -> torch.Tensor:
            if name.endswith("_like"):
                like: torch.Tensor = size[0]
                size = tuple(like.shape)
                options = {"device": like.device, "dtype": like.dtype, **options}
            plain = name.removesuffix("_like")
            if isinstance(source, Noise):
                return source.draw(plain, size, options)
            made: torch.Tensor = getattr(torch, plain)(*size, generator=source, **options)
            return made

        return draw


class _SeededUniform(torch.distributions.Uniform):  # type: ignore[misc]  # untyped from here
    """Family 1's vocoder draws its phases from this distribution."""

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        drawn: torch.Tensor = _SEEDED.rand(
            *self._extended_shape(torch.Size(sample_shape)),
            dtype=self.low.dtype,
            device=self.low.device,
        )
        return self.low + drawn * (self.high - self.low)


_SEEDED: Final = _SeededTorch()


def install() -> None:
    """Give upstream's flow and vocoder a `torch` that draws as `drawing_from` says."""
    from cosyvoice.flow import flow_matching  # noqa: PLC0415  there once upstream_code.load
    from cosyvoice.hifigan import generator  # noqa: PLC0415

    for module in (flow_matching, generator):
        module.torch = _SEEDED
    generator.Uniform = _SeededUniform


def seed_from(generator: torch.Generator) -> int:
    """Return a seed that `generator` draws."""
    drawn = torch.randint(1 << 62, (), generator=generator, device=generator.device)
    return int(drawn.item())


def seeded(seed: int | None, device: torch.device) -> torch.Generator:
    """Return a request's generator; without a seed, an unpredictable one."""
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator
