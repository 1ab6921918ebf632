"""Speech tokens of many requests, decoded together: they join and leave between steps.

Each sequence is prepared by upstream's own code, goes through the model once by itself, and then
stands in a row of the batch, filled up on the left. Its draws are its own, so what it says does not
depend on who is beside it.

Upstream's loop is not used: for families 2 and 3 it passes a mask of one position at every step,
which transformers pads with zeros since 4.53. Each step then attends to the first position only,
and speech is wrong without an error (upstream issues 1446 and 1886).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import torch
from transformers import DynamicCache

from services.speech.engines.cosyvoice.checkpoint import length

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from services.speech.engines.cosyvoice.checkpoint import Checkpoint
    from services.speech.engines.cosyvoice.modes import Prompt
    from services.speech.engines.cosyvoice.randomness import Sampler

_LEAST: Final = 2  # speech tokens a text token; upstream's
_MOST: Final = 20
_ABSURD: Final = 2.5  # nobody speaks so fast


@dataclass(eq=False)
class Line:
    """A segment that is being said.

    Attributes:
        prompt: what is given beside the text.
        text: its tokens.
        sampler: draws its tokens.
        made: the speech tokens so far.
    """

    prompt: Prompt
    text: Sequence[int]
    sampler: Sampler
    made: list[int] = field(default_factory=list)

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
        """Return whether, now that it has ended, its text cannot take so short or so long."""
        return self.is_endless or len(self.made) < _ABSURD * len(self.text)


_Line = TypeVar("_Line", bound=Line)


class Decoder(Generic[_Line]):
    """Decodes lines, used by one thread.

    Attributes:
        lines: those in the batch.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._lm = checkpoint.lm
        self._device = checkpoint.device
        self._half = checkpoint.fp16
        self._step = _transformer_step if checkpoint.family == 1 else _qwen_step
        self.lines: list[_Line] = []
        self._lengths: list[int] = []
        self._cache: Any = []
        self._hidden = torch.zeros(0, 0)

    def join(self, line: _Line) -> None:
        """Add a line: its text goes through the model, and the next `step` draws from that."""
        with torch.inference_mode(), torch.autocast(self._device.type, enabled=self._half):
            given = _given(self._lm, line, self._device)
            hidden, mine = self._step(self._lm, given, [], [0])
        sizes = [*self._lengths, given.shape[1]]
        if self.lines:
            pairs = zip(_tensors(self._cache), _tensors(mine), strict=True)
            mine = [torch.cat([_filled(row, max(sizes)) for row in pair]) for pair in pairs]
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
        self._cache = [_filled(one[stay], longest) for one in _tensors(self._cache) if stay]
        self._hidden = self._hidden[stay]

    def step(self) -> dict[_Line, BaseException | None]:
        """Add a token to each line; return those that ended, which have left, and why if failed."""
        with torch.inference_mode(), torch.autocast(self._device.type, enabled=self._half):
            ended = self._drawn(self._lm.llm_decoder(self._hidden).float())
            self.leave(ended)
            if self.lines:
                said = torch.tensor([line.made[-1] for line in self.lines], device=self._device)
                xs = self._lm.speech_embedding(said)[:, None]
                self._hidden, self._cache = self._step(self._lm, xs, self._cache, self._lengths)
                self._lengths = [length + 1 for length in self._lengths]
        return ended

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

    lm, prompt = copy.copy(lm), line.prompt
    if hasattr(lm, "inference_wrapper"):
        lm.inference_wrapper = catch
    else:  # family 1
        vars(lm)["llm"] = SimpleNamespace(forward_chunk=catch)
    try:
        next(
            lm.inference(
                text=torch.tensor([line.text], dtype=torch.int32, device=device),
                text_len=length(len(line.text), device),
                prompt_text=prompt.text.to(device),
                prompt_text_len=length(prompt.text.shape[1], device),
                prompt_speech_token=prompt.lm_speech.to(device),
                prompt_speech_token_len=length(prompt.lm_speech.shape[1], device),
                embedding=prompt.lm_embedding.to(device),
            )
        )
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


def _tensors(kept: Any) -> list[torch.Tensor]:
    """Return the tensors of a cache, each [B, H, T, D]."""
    tensors: list[torch.Tensor] = kept.tensors if isinstance(kept, _Kept) else kept
    return tensors


def _filled(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """Return a cache's tensor for `size` steps, filled up or cut on the left."""
    return torch.nn.functional.pad(tensor, (0, 0, size - tensor.shape[2], 0))


def _there(lengths: Sequence[int], size: int, device: torch.device) -> torch.Tensor:
    """Return which of `size` steps are a row's own [B, size]: its last ones."""
    places = torch.arange(size, 0, -1, device=device)
    return places <= torch.tensor(lengths, device=device)[:, None]


def _qwen_step(
    lm: Any, xs: torch.Tensor, kept: Any, lengths: Sequence[int]
) -> tuple[torch.Tensor, Any]:
    """Give families 2 and 3 `xs` [B, T, D] after what is kept; return the last states [B, D]."""
    kept = kept if isinstance(kept, _Kept) else _Kept(kept)
    masks = {}
    if len(set(lengths)) > 1:  # else each row sees all that is before it, which needs no mask
        sizes = [length + 1 for length in lengths]
        masks["attention_mask"] = _there(sizes, max(sizes), xs.device).long()
        masks["position_ids"] = torch.tensor(lengths, device=xs.device)[:, None]
    out = lm.llm.model.model(inputs_embeds=xs, past_key_values=kept, use_cache=True, **masks)
    return out.last_hidden_state[:, -1], kept


def _transformer_step(
    lm: Any, xs: torch.Tensor, kept: list[torch.Tensor], lengths: Sequence[int]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Do the same for family 1, whose own loop takes one line."""
    encoder, steps = lm.llm, xs.shape[1]
    size = max(lengths) + steps
    if kept:
        seen = _there([length + 1 for length in lengths], size, xs.device)[:, None]
    else:
        seen = torch.ones(1, size, size, dtype=torch.bool, device=xs.device).tril()
    xs, _, _ = encoder.embed(xs, seen[:, -1:, -steps:], size - steps)
    places, made = encoder.embed.position_encoding(0, size), []
    for at, layer in enumerate(encoder.encoders):
        before = {"att_cache": kept[at]} if kept else {}
        xs, _, after, _ = layer(xs, seen, places, **before)
        made.append(after)
    return encoder.after_norm(xs)[:, -1], made
