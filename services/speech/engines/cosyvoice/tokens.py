"""Speech tokens of many requests, decoded together: they join and leave between steps.

Each sequence is prepared by upstream's own code, goes through the model once by itself, and then
stands in a row of the batch, filled up on the left. Its draws are its own, so what it says does not
depend on who is beside it.

Upstream's loop is not used: it passes a mask of one position at every step, which transformers pads
with zeros since 4.53. Each step then attends to the first position only, and speech is wrong
without an error (upstream issues 1446 and 1886).
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import torch
from transformers import DynamicCache

from services.speech.engines.cosyvoice.checkpoint import Checkpoint
from services.speech.engines.cosyvoice.prompt import TELLING, Prompt

_LEAST: Final = 2  # speech tokens a text token; upstream's
_MOST: Final = 20
_ABSURD: Final = 2.5  # nobody speaks so fast
_OFF_PACE: Final = 1.8  # times the recording's pace: said twice, or half of it


class Sampler:
    """Repetition-aware sampling (VALL-E 2), as upstream's `ras_sampling`, from one generator."""

    def __init__(self, lm: Any, seed: int) -> None:
        """Sample for `lm` with the parameters of its recipe."""
        chosen = getattr(lm.sampling, "keywords", {})
        self.top_k: int = chosen.get("top_k", 25)  # tokens that are drawn from at first
        self._top_p: float = chosen.get("top_p", 0.8)
        self._window: int = chosen.get("win_size", 10)
        self._ratio: float = chosen.get("tau_r", 0.1)
        self._generator = torch.Generator().manual_seed(seed)
        self._noise = random.Random(seed)  # noqa: S311  it is to be repeatable

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

    def noise(self) -> int:
        """Return a seed for the noise in a segment's sound."""
        return self._noise.getrandbits(62)


@dataclass(eq=False)
class Line:
    """A segment that is being said."""

    prompt: Prompt
    text: Sequence[int]  # in tokens
    sampler: Sampler
    made: list[int] = field(default_factory=list)  # its speech tokens so far

    @property
    def is_short(self) -> bool:
        """Return whether it may not end yet."""
        return len(self.made) < _LEAST * len(self.text)

    @property
    def is_endless(self) -> bool:
        """Return whether it has to end now."""
        return len(self.made) >= _MOST * len(self.text)

    @property
    def is_absurd(self) -> bool:
        """Return whether, now that it has ended, its text cannot take so short or so long.

        At twice the recording's pace half of the text is missing, and at half of it the text was
        said twice, or the recording's before it.
        """
        usual = len(self.text) * self.prompt.pace
        off = not usual / _OFF_PACE <= len(self.made) <= usual * _OFF_PACE
        told = usual > 0 and len(self.text) >= TELLING
        return self.is_endless or len(self.made) < _ABSURD * len(self.text) or (told and off)


_Line = TypeVar("_Line", bound=Line)


class Decoder(Generic[_Line]):
    """Decodes lines, used by one thread."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._lm = checkpoint.lm
        self._device = checkpoint.device
        self._half = checkpoint.fp16
        self.lines: list[_Line] = []  # in the batch
        self._lengths: list[int] = []
        self._cache = _Kept(())
        self._hidden = torch.zeros(0, 0)

    def join(self, line: _Line) -> None:
        """Add a line: its text goes through the model, and the next `step` draws from that."""
        with torch.inference_mode(), torch.autocast(self._device.type, enabled=self._half):
            given = _given(self._lm, line, self._device)
            hidden, mine = self._after(given, _Kept(()), [0])
        sizes = [*self._lengths, given.shape[1]]
        if self.lines:
            pairs = zip(self._cache.tensors, mine.tensors, strict=True)
            mine = _Kept([torch.cat([_filled(row, max(sizes)) for row in pair]) for pair in pairs])
            hidden = torch.cat([self._hidden, hidden])
        self._cache, self._hidden, self._lengths = mine, hidden, sizes
        self.lines.append(line)

    def leave(self, lines: Iterable[_Line]) -> None:
        """Take lines out, whether or not they have ended."""
        gone = set(map(id, lines))
        stay = [at for at, line in enumerate(self.lines) if id(line) not in gone]
        if len(stay) == len(self.lines):
            return
        self.lines = [self.lines[at] for at in stay]
        self._lengths = [self._lengths[at] for at in stay]
        longest = max(self._lengths, default=0)
        self._cache = _Kept([_filled(one[stay], longest) for one in self._cache.tensors if stay])
        self._hidden = self._hidden[stay]

    def step(self) -> dict[_Line, BaseException | None]:
        """Add a token to each line; return those that ended, which have left, and why if failed."""
        with torch.inference_mode(), torch.autocast(self._device.type, enabled=self._half):
            ended = self._drawn(self._lm.llm_decoder(self._hidden).float())
            self.leave(ended)
            if self.lines:
                said = torch.tensor([line.made[-1] for line in self.lines], device=self._device)
                xs = self._lm.speech_embedding(said)[:, None]
                self._hidden, self._cache = self._after(xs, self._cache, self._lengths)
                self._lengths = [length + 1 for length in self._lengths]
        return ended

    def _after(
        self, xs: torch.Tensor, kept: _Kept, lengths: Sequence[int]
    ) -> tuple[torch.Tensor, _Kept]:
        """Give the model `xs` [B, T, D] after what is kept; return the last states [B, D]."""
        masks = {}
        if len(set(lengths)) > 1:  # else each row sees all that is before it, which needs no mask
            size = max(lengths) + 1
            own = torch.tensor(lengths, device=xs.device)[:, None]
            places = torch.arange(size - 1, -1, -1, device=xs.device)  # a row's own are the last
            masks = {"attention_mask": (places <= own).long(), "position_ids": own}
        model = self._lm.llm.model.model
        out = model(inputs_embeds=xs, past_key_values=kept, use_cache=True, **masks)
        return out.last_hidden_state[:, -1], kept

    def _drawn(self, logits: torch.Tensor) -> dict[_Line, BaseException | None]:
        """Draw a token for each row of `logits` [B, V]; return the lines that end with it."""
        ended: dict[_Line, BaseException | None] = {}
        speech: int = self._lm.speech_token_size
        some = [speech if line.is_short else logits.shape[1] for line in self.lines]
        for row, count in zip(logits, some, strict=True):
            row[count:] = -torch.inf
        probabilities = logits.softmax(dim=1)
        best, ids = (one.cpu() for one in probabilities.topk(self.lines[0].sampler.top_k, dim=1))
        for at, line in enumerate(self.lines):
            try:
                token = line.sampler(best[at], ids[at], probabilities[at, : some[at]], line.made)
            except Exception as error:  # noqa: BLE001  it is that line's
                ended[line] = error
                continue
            if token < speech:
                line.made.append(token)
            if token >= speech or line.is_endless:
                ended[line] = None
        return ended


class _Caught(Exception):  # noqa: N818  no error
    """What upstream's code gives the model first."""


def _given(lm: Any, line: Line, device: torch.device) -> torch.Tensor:
    """Return what stands before a line's first token [1, T, D], put together by upstream's code."""

    def catch(given: torch.Tensor, *_: Any, **__: Any) -> None:
        raise _Caught(given)

    def counted(ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            torch.tensor([ids], dtype=torch.int32, device=device),
            torch.tensor([len(ids)], dtype=torch.int32, device=device),
        )

    lm, prompt = copy.copy(lm), line.prompt
    lm.inference_wrapper = catch
    heard = prompt.heard.tokens[0].tolist() if prompt.is_continued else ()
    texts = *counted(line.text), *counted(prompt.text), *counted(heard)
    try:
        next(lm.inference(*texts, prompt.heard.embedding))
    except _Caught as caught:
        given: torch.Tensor = caught.args[0]
        return given
    raise AssertionError("upstream's model was given nothing")


class _Kept(DynamicCache):  # type: ignore[misc]  # untyped
    """Keys and values that can be read with any transformers since 4.51."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.tensors: list[torch.Tensor] = []
        for layer, pair in enumerate(zip(tensors[::2], tensors[1::2], strict=True)):
            self.update(*pair, layer)

    def update(self, keys: Any, values: Any, layer_idx: int, *given: Any, **named: Any) -> Any:
        made = super().update(keys, values, layer_idx, *given, **named)
        self.tensors[2 * layer_idx : 2 * layer_idx + 2] = made
        return made


def _filled(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """Return a cache's tensor for `size` steps, filled up or cut on the left."""
    return torch.nn.functional.pad(tensor, (0, 0, size - tensor.shape[2], 0))
