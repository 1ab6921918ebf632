"""What is put right in upstream's language models of families 2 and 3.

Upstream decodes with a mask of one position on every step, which transformers from 4.53 on pads
with zeros: each step then attends to the first position only, and wrong speech comes out without
an error (upstream issues 1446 and 1886). A causal model needs no mask for a single sequence, so
none is given. The head over text tokens, whose result nobody reads, is left out too.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def forward_one_step(
    encoder: Any, xs: torch.Tensor, masks: torch.Tensor, cache: Any = None
) -> tuple[torch.Tensor, Any]:
    """Decode `xs` [1, T, D] after what `cache` holds; return the hidden states and the cache."""
    del masks
    out = encoder.model.model(
        inputs_embeds=xs,
        past_key_values=cache,
        use_cache=True,
        return_dict=True,
    )
    return out.last_hidden_state, out.past_key_values


def put_right(lm: Any) -> None:
    """Make a language model of families 2 or 3 decode rightly with any transformers since 4.51."""
    lm.float()  # transformers 5 loads the text model as the file says, bfloat16
    lm.llm.forward_one_step = MethodType(forward_one_step, lm.llm)
