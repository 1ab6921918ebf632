"""What is corrected in upstream's language models of families 2 and 3.

Upstream decodes with a mask of one position at every step, which transformers pads with zeros since
4.53: each step then attends to the first position only, and speech is wrong without an error
(upstream issues 1446 and 1886). A causal model needs no mask for a single sequence, so none is
passed. The head over text tokens, whose result is not used, is skipped, too.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def forward_one_step(
    encoder: Any, xs: torch.Tensor, masks: torch.Tensor, cache: Any = None
) -> tuple[torch.Tensor, Any]:
    """Decode `xs` [1, T, D] after what is in `cache`; return the hidden states and the cache."""
    del masks
    out = encoder.model.model(
        inputs_embeds=xs,
        past_key_values=cache,
        use_cache=True,
        return_dict=True,
    )
    return out.last_hidden_state, out.past_key_values


def put_right(lm: Any) -> None:
    """Make a language model of family 2 or 3 decode correctly with any transformers since 4.51."""
    lm.float()  # transformers 5 loads the text model as the file says, bfloat16
    lm.llm.forward_one_step = MethodType(forward_one_step, lm.llm)
