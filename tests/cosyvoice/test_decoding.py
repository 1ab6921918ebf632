"""Speech tokens are those of one pass of the model, and of upstream's own loop, in any company.

`nox -s cosyvoice` also runs this file with an older transformers.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from services.speech.engines.cosyvoice import prompt, tokens
from tests.cosyvoice import upstream_loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cosyvoice.tiny import Family

PADS_THE_MASK = Version(transformers.__version__) >= Version("4.53")
FAMILIES = pytest.mark.parametrize("family", [2, 3])
KINDS = 12  # of lines


def line(model: Any, seed: int) -> tokens.Line:
    """Return a line of some length with a prompt of some length; both follow from the seed."""
    import torch  # noqa: PLC0415  heavy

    rng = random.Random(seed)  # noqa: S311

    def ids(most: int) -> list[int]:
        return [rng.randrange(900) for _ in range(rng.randint(0, most))]

    # Family 3's code refuses a text without its mark.
    text = ids(20) + model.encode("One.<|endofprompt|>Two, and three.")
    before = tuple(ids(9))
    heard = prompt.Features(
        torch.tensor([ids(40)], dtype=torch.int32), torch.zeros(1, 0, 80), torch.zeros(1, 192)
    )
    given = prompt.Prompt(heard, before, is_continued=True)
    return tokens.Line(given, text, tokens.Sampler(model.lm, seed))


def alone(model: Any, seed: int) -> list[int]:
    """Return a line's tokens in upstream's own loop, with our draws."""
    one = line(model, seed)
    return upstream_loop.decoded(model.lm, one.sampler, one.prompt, list(one.text))


def _watched(decoder: tokens.Decoder, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """Return a list of what goes into the model and what comes out, step by step."""
    steps, after = [], decoder._after

    def noted(xs: Any, *rest: Any) -> Any:
        hidden, kept = after(xs, *rest)
        steps.append((xs, hidden))
        return hidden, kept

    monkeypatch.setattr(decoder, "_after", noted)
    return steps


@FAMILIES
def test_decoding_token_by_token_equals_the_full_forward_pass(
    loaded: Callable[[Family], Any], monkeypatch: pytest.MonkeyPatch, family: Family
) -> None:
    import torch  # noqa: PLC0415  heavy

    model = loaded(family)
    decoder = tokens.Decoder(model)
    steps = _watched(decoder, monkeypatch)
    decoder.join(line(model, 1))
    while decoder.lines:
        decoder.step()
    given = torch.cat([xs for xs, _ in steps], dim=1)
    made = torch.cat([hidden for _, hidden in steps])

    assert len(made) > 20
    with torch.inference_mode():
        whole, _ = model.lm.llm(given, torch.tensor([given.shape[1]]))
        both = [
            model.lm.llm_decoder(hidden).log_softmax(dim=-1)
            for hidden in (whole[0, -len(made) :], made)
        ]
    assert float((both[0] - both[1]).abs().max()) < 1e-4


@FAMILIES
def test_a_line_alone_has_the_tokens_of_upstreams_own_loop(
    loaded: Callable[[Family], Any], family: Family
) -> None:
    model = loaded(family)
    for seed in range(KINDS):
        one, decoder = line(model, seed), tokens.Decoder(model)
        decoder.join(one)
        while decoder.lines:
            assert not any(decoder.step().values())
        assert one.made == alone(model, seed)


@FAMILIES
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_mix_of_lines_says_what_each_says_alone(
    loaded: Callable[[Family], Any], family: Family, data: st.DataObject
) -> None:
    model = loaded(family)
    decoder, waiting, kept = tokens.Decoder(model), list(range(KINDS)), []
    while waiting or decoder.lines:
        what = data.draw(st.sampled_from(["join", "step", "step", "step", "leave"]))
        if what == "join" and waiting:
            seed = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
            kept.append((seed, line(model, seed)))
            decoder.join(kept[-1][1])
        elif what == "leave" and decoder.lines and data.draw(st.booleans()):
            gone = data.draw(st.sampled_from(decoder.lines))
            decoder.leave([gone])
            kept = [(seed, one) for seed, one in kept if one is not gone]
        elif decoder.lines:
            assert not any(decoder.step().values())
    for seed, one in kept:
        assert one.made == alone(model, seed)


@FAMILIES
def test_upstreams_own_step_would_fail_that_with_a_transformers_that_pads_its_mask(
    loaded: Callable[[Family], Any], family: Family
) -> None:
    model = loaded(family)
    own = type(model.lm.llm).forward_one_step
    one = line(model, 1)
    made = upstream_loop.decoded(model.lm, one.sampler, one.prompt, list(one.text), own)

    assert (made == alone(model, 1)) != PADS_THE_MASK


@FAMILIES
def test_no_line_ends_before_its_shortest_length(
    loaded: Callable[[Family], Any], family: Family
) -> None:
    import torch  # noqa: PLC0415  heavy

    model = loaded(family)
    decoder, one = tokens.Decoder(model), line(model, 1)
    decoder.join(one)
    scores = torch.full((1, model.lm.llm_decoder.out_features), -5.0)
    scores[:, model.lm.speech_token_size :] = 5.0  # every mark of family 3, and the one of family 2
    least = 2 * len(one.text)

    assert not any(decoder._drawn(scores.clone()) for _ in range(least))
    assert len(one.made) == least
    assert decoder._drawn(scores.clone()) == {one: None}
