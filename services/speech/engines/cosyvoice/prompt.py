"""What upstream's two models are given beside a text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import torch

_NO_TOKENS: Final = torch.zeros(1, 0, dtype=torch.int32)


@dataclass(frozen=True)
class Prompt:
    """What the two models are given beside a text's tokens, in upstream's terms.

    Attributes:
        text: of the prompt or the instruction, int32 [1, T].
        lm_speech: speech tokens that the language model goes on from, int32 [1, T].
        lm_embedding: the speaker as the language model hears it, float32 [1, 192] or [0, 192].
        flow_speech: speech tokens that the flow goes on from.
        flow_mel: their mel, float32 [1, M, 80].
        flow_embedding: the speaker as the flow hears it.
    """

    flow_embedding: torch.Tensor
    text: torch.Tensor = _NO_TOKENS
    lm_speech: torch.Tensor = _NO_TOKENS
    lm_embedding: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 192))
    flow_speech: torch.Tensor = _NO_TOKENS
    flow_mel: torch.Tensor = field(default_factory=lambda: torch.zeros(1, 0, 80))
