"""Decoding token by token equals one pass of the model, with any version of transformers.

`nox -s cosyvoice` also runs this file with an older transformers.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

import pytest
import transformers
from packaging.version import Version

from services.speech.engines.cosyvoice import checkpoint, language_model, randomness

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cosyvoice.tiny import Family

PADS_THE_MASK = Version(transformers.__version__) >= Version("4.53")
FAMILIES = pytest.mark.parametrize("family", [2, 3])


@pytest.fixture(scope="module")
def loaded(tiny_model: Callable[[Family], Path]) -> Callable[[Family], Any]:
    models: dict[Family, Any] = {}

    def load(family: Family) -> Any:
        directory = tiny_model(family)
        if family not in models:
            models[family] = checkpoint.load(
                directory, code_root=None, device="cpu", accelerated=checkpoint.Acceleration()
            )
        return models[family]

    return load


def _decoded(model: Any, step: Callable[..., Any]) -> tuple[list[int], Any, Any]:
    """Let upstream's loop decode with `step`: the tokens, what went in, and what came out."""
    import torch  # noqa: PLC0415  heavy

    given, made = [], []

    def noted(encoder: Any, xs: Any, masks: Any, cache: Any = None) -> Any:
        hidden, cache = step(encoder, xs, masks, cache)
        given.append(xs)
        made.append(hidden)
        return hidden, cache

    lm = model.session_lm(randomness.Sampler(model.lm, randomness.seeded(3, torch.device("cpu"))))
    right = lm.llm.forward_one_step
    lm.llm.forward_one_step = MethodType(noted, lm.llm)
    try:
        text = model.encode("You are here.<|endofprompt|>One sentence of some ten words.")
        empty = torch.zeros(1, 0, dtype=torch.int32)
        tokens = list(
            lm.inference(
                text=torch.tensor([text]),
                text_len=torch.tensor([len(text)]),
                prompt_text=empty,
                prompt_text_len=torch.tensor([0]),
                prompt_speech_token=empty,
                prompt_speech_token_len=torch.tensor([0]),
                embedding=torch.zeros(0, 192),
                uuid="",
            )
        )
    finally:
        lm.llm.forward_one_step = right
    return tokens, torch.cat(given, dim=1), torch.cat(made, dim=1)


def _off(model: Any, given: Any, made: Any) -> float:
    """Return how far the log probabilities of each step are from those of a single pass."""
    import torch  # noqa: PLC0415  heavy

    with torch.inference_mode():
        whole, _ = model.lm.llm(given, torch.tensor([given.shape[1]]))
        both = [model.lm.llm_decoder(hidden).log_softmax(dim=-1) for hidden in (whole, made)]
    return float((both[0] - both[1]).abs().max())


@FAMILIES
def test_decoding_token_by_token_equals_the_full_forward_pass(
    loaded: Callable[[Family], Any], family: Family
) -> None:
    model = loaded(family)
    tokens, given, made = _decoded(model, language_model.forward_one_step)

    assert len(tokens) > 20
    assert given.shape == made.shape
    assert given.shape[1] > 20 + len(tokens)
    assert _off(model, given, made) < 1e-4


@FAMILIES
def test_upstreams_own_step_would_fail_that_with_a_transformers_that_pads_its_mask(
    loaded: Callable[[Family], Any], family: Family
) -> None:
    model = loaded(family)
    _, given, made = _decoded(model, type(model.lm.llm).forward_one_step)

    off = _off(model, given, made)
    assert off > 1e-2 if PADS_THE_MASK else off < 1e-4


@FAMILIES
def test_no_utterance_ends_before_its_shortest_length(
    loaded: Callable[[Family], Any], family: Family
) -> None:
    import torch  # noqa: PLC0415  heavy

    lm = loaded(family).lm
    end = getattr(lm, "eos_token", lm.speech_token_size)
    sampler = randomness.Sampler(lm, randomness.seeded(1, torch.device("cpu")))
    scores = torch.full((lm.llm_decoder.out_features,), -5.0)
    scores[lm.speech_token_size :] = 5.0  # every mark of family 3, and the one of family 2

    assert all(sampler(scores, [], 25, ignore_eos=True) < lm.speech_token_size for _ in range(50))
    assert all(sampler(scores, [], 25, ignore_eos=False) == end for _ in range(50))
