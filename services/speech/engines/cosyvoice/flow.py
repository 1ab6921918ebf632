"""The flow, speech tokens to mel, for many requests at once.

Upstream's `inference` takes one request at a time, and so does its solver; its modules take any
number, with masks. Here requests of differing lengths stand side by side, filled up on the right,
and each result is what that request alone would get.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from services.speech.engines.cosyvoice.prompt import Prompt

_STEPS: Final = 10  # of the solver; upstream's


@dataclass(frozen=True)
class Part:
    """What is made of a segment at once: the prompt, then all its speech tokens so far."""

    prompt: Prompt
    tokens: Sequence[int]  # the last ones are only looked ahead at, unless `is_last`
    is_last: bool  # whether the segment is complete with them
    since: int = 0  # how many of the segment's tokens have sounded before
    until: int = 0  # and after it

    @property
    def size(self) -> int:
        """Return how many tokens the flow is given."""
        return int(self.prompt.heard.tokens.shape[1]) + len(self.tokens)


@torch.inference_mode()  # type: ignore[untyped-decorator]
def mels(flow: Any, batch: Sequence[Part], *, streaming: bool) -> list[torch.Tensor]:
    """Return the mel [1, 80, T] of each segment's tokens, its prompt's left out.

    With `streaming` no chunk of upstream's length is heard before it is complete, so that a frame
    is the same however many tokens come after it; else each hears all of its segment.
    """
    device = flow.input_embedding.weight.device
    voices = [one.prompt.heard for one in batch]
    tokens = [
        torch.cat([one.prompt.heard.tokens[0].cpu(), torch.tensor(one.tokens, dtype=torch.int32)])
        for one in batch
    ]
    known = torch.tensor([len(row) for row in tokens], device=device)
    ahead = [0 if one.is_last else flow.pre_lookahead_len for one in batch]
    heard = known - torch.tensor(ahead, device=device)
    ids = pad_sequence(tokens, batch_first=True).to(device, torch.long)
    xs = flow.input_embedding(ids.clamp(min=0)) * _first(known)
    mu = _encoded(flow, xs, known, heard, streaming=streaming)
    lengths = heard * flow.token_mel_ratio
    cond = torch.zeros_like(mu)
    for row, voice in zip(cond, voices, strict=True):
        row[: voice.mel.shape[1]] = voice.mel[0]
    speakers = torch.cat([voice.embedding for voice in voices]).to(device)
    made = _solved(
        flow.decoder,
        mu.transpose(1, 2),
        _first(lengths).transpose(1, 2).to(mu),
        flow.spk_embed_affine_layer(normalize(speakers, dim=1)),
        cond.transpose(1, 2),
        streaming=streaming,
    )
    return [
        row[None, :, voice.mel.shape[1] : length].float()
        for row, voice, length in zip(made, voices, lengths.tolist(), strict=True)
    ]


def _first(lengths: torch.Tensor) -> torch.Tensor:
    """Return what is True for the first of each row [B, T, 1]."""
    places = torch.arange(int(lengths.max()), device=lengths.device)
    return (places < lengths[:, None])[:, :, None]


def _encoded(
    flow: Any, xs: torch.Tensor, known: torch.Tensor, heard: torch.Tensor, *, streaming: bool
) -> torch.Tensor:
    """Return what the solver follows, [B, T, 80], of embedded tokens [B, T, D].

    A row's `known` tokens may be looked ahead at, its `heard` ones are encoded.
    """
    size = int(heard.max())
    if not hasattr(flow, "encoder"):  # family 3
        ahead: torch.Tensor = flow.pre_lookahead_layer(xs)[:, :size]
        return ahead.repeat_interleave(flow.token_mel_ratio, dim=1)
    # As upstream's encoder does, which takes what it looks ahead at from the end of the batch.
    encoder, chunk = flow.encoder, flow.encoder.static_chunk_size if streaming else 0
    xs, _, _ = encoder.embed(xs, _first(known).transpose(1, 2))
    xs = encoder.pre_lookahead_layer(xs * _first(known))[:, :size]
    xs = encoder.forward_layers(xs, *_attention(encoder.embed, xs, heard, chunk))
    xs, heard = encoder.up_layer(xs.transpose(1, 2).contiguous(), heard)
    xs, _, _ = encoder.up_embed(xs.transpose(1, 2).contiguous(), _first(heard).transpose(1, 2))
    chunk *= encoder.up_layer.stride
    xs = encoder.forward_up_layers(xs, *_attention(encoder.up_embed, xs, heard, chunk))
    made: torch.Tensor = flow.encoder_proj(encoder.after_norm(xs))
    return made


def _attention(
    embed: Any, xs: torch.Tensor, lengths: torch.Tensor, chunk: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what each layer is given with `xs`: who sees whom, positions, and what is there."""
    from cosyvoice.utils.mask import add_optional_chunk_mask  # noqa: PLC0415

    there = _first(lengths).transpose(1, 2)
    seen = add_optional_chunk_mask(xs, there, False, False, 0, chunk, -1)  # noqa: FBT003
    return seen, embed.position_encoding(0, xs.shape[1]), there


def _solved(
    decoder: Any,
    mu: torch.Tensor,
    mask: torch.Tensor,
    speakers: torch.Tensor,
    cond: torch.Tensor,
    *,
    streaming: bool,
) -> torch.Tensor:
    """Return the mel [B, 80, T]: upstream's solver, for more than one request."""
    x = decoder.rand_noise[:, :, : mu.shape[2]].to(mu).expand_as(mu)
    times = torch.linspace(0, 1, _STEPS + 1, device=mu.device, dtype=mu.dtype)
    if decoder.t_scheduler == "cosine":
        times = 1 - torch.cos(times * 0.5 * torch.pi)
    # Each row twice: as asked for, and without the text and the voice, from which it is led away.
    given = [torch.cat([one, torch.zeros_like(one)]) for one in (mu, speakers, cond)]
    mask, rate = mask.repeat(2, 1, 1), decoder.inference_cfg_rate
    time = times[0]
    for until in times[1:]:
        both = decoder.forward_estimator(
            x.repeat(2, 1, 1), mask, given[0], time.repeat(len(mask)), *given[1:], streaming
        )
        asked, free = both.chunk(2)
        x = x + (until - time) * ((1.0 + rate) * asked - rate * free)
        time = time + (until - time)
    return x
