"""Upstream's own loop over speech tokens, one request at a time, with the draws of our sampler."""

from __future__ import annotations

import copy
from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.speech.engines.cosyvoice.prompt import Prompt
    from services.speech.engines.cosyvoice.tokens import Sampler


class Token(int):
    """A token; some versions of upstream take an int, some call `.item()`."""

    __slots__ = ()

    def item(self) -> int:
        return int(self)


def drawing(lm: Any, sampler: Sampler) -> Any:
    """Return `lm` with the draws of `sampler`; any stop token is the end."""
    lm = copy.copy(lm)
    size = lm.speech_token_size
    end = getattr(lm, "eos_token", size)

    def sampled(scores: Any, decoded: list[int], _: int, ignore_eos: bool = True) -> Token:  # noqa: FBT001, FBT002
        # Family 3's end is one further than upstream masks, which lets speech end early.
        probabilities = (scores[:size] if ignore_eos else scores).softmax(dim=0)
        best, ids = probabilities.topk(min(sampler.top_k, probabilities.numel()))
        token = sampler(best, ids, probabilities, decoded)
        return Token(token if token < size else end)

    lm.sampling_ids = sampled
    return lm


def without_mask(encoder: Any, xs: Any, masks: Any, cache: Any = None) -> tuple[Any, Any]:
    """Decode as upstream's `forward_one_step`, but right: a single line needs no mask."""
    del masks
    out = encoder.model.model(inputs_embeds=xs, past_key_values=cache, use_cache=True)
    return out.last_hidden_state, out.past_key_values


def decoded(
    lm: Any,
    sampler: Sampler,
    prompt: Prompt,
    text: list[int],
    step: Callable[..., Any] = without_mask,
) -> list[int]:
    """Return the tokens of a text that upstream's loop makes with `step`."""
    import torch  # noqa: PLC0415  heavy

    lm = drawing(lm, sampler)
    encoder = copy.copy(lm.llm)
    encoder.forward_one_step = MethodType(step, encoder)
    vars(lm)["llm"] = encoder
    heard = prompt.heard.tokens if prompt.is_continued else prompt.heard.tokens[:, :0]
    said = lm.inference(
        text=torch.tensor([text], dtype=torch.int32),
        text_len=torch.tensor([len(text)], dtype=torch.int32),
        prompt_text=torch.tensor([prompt.text], dtype=torch.int32),
        prompt_text_len=torch.tensor([len(prompt.text)], dtype=torch.int32),
        prompt_speech_token=heard,
        prompt_speech_token_len=torch.tensor([heard.shape[1]], dtype=torch.int32),
        embedding=prompt.heard.embedding,
        uuid="",
    )
    return [int(token) for token in said]
